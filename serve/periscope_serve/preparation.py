"""Whether the preparation of a repository works: its files load, and the smallest item of its path is prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from periscope_runtime.asked import Asked
from periscope_runtime.item import Item
from periscope_runtime.paths import IMAGE, PATHS, TEXT, VIDEO, ItemPath
from periscope_runtime.prepare import Preparer
from periscope_serve.repository import Finding, Model
from periscope_serve.smallest import PAGE, WORD

_FILES = ("recipe.json", "tokenizer.json")
_ITEMS = {TEXT: Item(text=WORD), IMAGE: Item(images=[PAGE]), VIDEO: Item(video=[PAGE])}


def path(model: Model) -> ItemPath | None:
    """Return the path of items that a model prepares, None for one that prepares nothing."""
    parameters = model.config.parameters
    return PATHS.get(parameters["path"].string_value) if "path" in parameters else None


def check(model: Model) -> Iterator[Finding]:
    """Every version of a preparation model whose files do not load, or that prepares nothing."""
    for version in model.served:
        folder = model.version_folder(version)
        if (items := path(model)) is None or not any((folder / file).exists() for file in _FILES):
            continue
        try:
            _prepare(folder, items)
        except Exception as error:  # whatever is wrong with the files, requests would meet it
            said = " ".join(f"{error}".split()).rstrip(".") or "it has no message"
            yield Finding(model.name, f"its preparation does not work ({said})", "Export the retriever again")


def _prepare(folder: Path, items: ItemPath) -> None:
    preparer = Preparer(folder)
    if not items.pairs:
        preparer.item(_ITEMS[items], Asked(None))
        return
    pair = preparer.preparation.pair
    item = _ITEMS[TEXT if pair is None or TEXT.content in pair.contents else IMAGE]
    preparer.pair(preparer.side(item), preparer.side(item), Asked(None))
