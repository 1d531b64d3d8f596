"""The inputs that every export is measured on: sample items, prepared, one set of tensors for each path of items."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from periscope_export.fidelity.record import Golden
from periscope_export.fidelity.samples import QUERIES, sample_pages, sample_videos
from periscope_export.models.steps import Step
from periscope_export.repository.wire import on_path
from periscope_runtime.asked import Asked
from periscope_runtime.collate import collate
from periscope_runtime.completion import completed
from periscope_runtime.item import Item
from periscope_runtime.kinds import ContentKind, parsed
from periscope_runtime.paths import ItemPath
from periscope_runtime.prepare import Preparer, Row
from periscope_runtime.recipe import Preparation


def sample_inputs(preparer: Preparer, steps: Sequence[Step], width: int) -> Golden:
    """Return the tensors that the first steps of each path read. `width` is that of a dense vector."""
    golden: Golden = {}
    for path in preparer.preparation.paths:
        tensors = collate(_rows(preparer, path), preparer.preparation.buckets, preparer.kept)
        wanted = {spec.name: spec.wanted for step in on_path(path, steps) for spec in step.inputs}
        golden[path.name] = completed(tensors, wanted, width)
    return golden


def _rows(preparer: Preparer, path: ItemPath) -> list[Row]:
    preparation = preparer.preparation
    if path.pairs:
        assert preparation.pair is not None
        kinds = [parsed(word) for word in preparation.pair.contents]
        query = preparer.side(_items(("text",) if ("text",) in kinds else kinds[0])[0])
        # As many as one kind has, of every kind in turn.
        documents = [_items(kind)[index] for index, kind in zip(range(len(QUERIES)), cycle(kinds), strict=False)]
        asked = _asked(preparation, [None])
        return [preparer.pair(query, preparer.side(document), one) for document, one in _rows_of(documents, asked)]
    assert path.content is not None
    kind: ContentKind = (path.content,)
    if path.content == "image" and ("images",) in preparation.kinds:
        kind = ("images",)
    asked = _asked(preparation, preparation.roles(kind))
    return [preparer.item(item, one) for item, one in _rows_of(_items(kind), asked)]


def _rows_of(items: Sequence[Item], asked: Sequence[Asked]) -> Iterator[tuple[Item, Asked]]:
    """Yield every item, and everything that is asked for, at least once; the fewer in turn."""
    count = max(len(items), len(asked))
    return islice(zip(cycle(items), cycle(asked), strict=False), count)


def _asked(preparation: Preparation, roles: Sequence[str | None]) -> list[Asked]:
    """Return what rows are asked for: the default task, or a task and role for each adapter that is chosen by row."""
    if not preparation.stacked:
        return [Asked()]
    by_adapter: dict[str, Asked] = {}
    for name, task in preparation.tasks.items():
        for role in roles:
            if (adapter := task.adapter_in(role)) is not None:
                by_adapter.setdefault(adapter, Asked(role, task=name))
    return list(by_adapter.values())


def _items(kind: ContentKind) -> list[Item]:
    texts = [query.encode() for query in QUERIES]
    if kind == ("text",):
        return [Item(text=text) for text in texts]
    beside = texts if "text" in kind else [None] * len(texts)
    if "video" in kind:
        return [Item(text, video=frames) for text, frames in zip(beside, sample_videos(), strict=True)]
    pages = sample_pages()
    # The next page is the second of an item that may have several.
    shown = zip(pages, [*pages[1:], pages[0]], strict=True) if "images" in kind else ([page] for page in pages)
    return [Item(text, images) for text, images in zip(beside, shown, strict=True)]
