"""Whether the preparation of a repository works: its files load, and the smallest item of its path is prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from periscope_runtime.item import Item
from periscope_runtime.prepare import Preparer
from periscope_runtime.prompt import Asked
from periscope_serve.repository import Finding, Model
from periscope_serve.smallest import PAGE, WORD

_FILES = ("recipe.json", "tokenizer.json")
_ITEMS = {"text": Item(text=WORD), "image": Item(image=PAGE), "video": Item(video=[PAGE])}


def path(model: Model) -> str:
    """Return the path of items that a model prepares, "" for one that prepares nothing."""
    return str(model.config.parameters["path"].string_value) if "path" in model.config.parameters else ""


def check(model: Model) -> Iterator[Finding]:
    """Every version of a preparation model whose files do not load, or that prepares nothing."""
    for version in model.served:
        folder = model.version_folder(version)
        if not path(model) or not any((folder / file).exists() for file in _FILES):
            continue
        try:
            _prepare(folder, path(model))
        except Exception as error:  # whatever is wrong with the files, requests would meet it
            said = " ".join(f"{error}".split()).rstrip(".") or "it has no message"
            yield Finding(model.name, f"its preparation does not work ({said})", "Export the retriever again")


def _prepare(folder: Path, kind: str) -> None:
    preparer = Preparer(folder)
    if kind != "rerank":
        preparer.item(_ITEMS[kind], Asked(None))
        return
    pair = preparer.preparation.pair
    item = _ITEMS["text" if pair is None or "text" in pair.contents else "image"]
    preparer.pair(preparer.side(item), preparer.side(item), Asked(None))
