"""The rows that preparation makes of a system's items, without a server, and the vectors of its towers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from e2e.pages import encode
from export.test_towers import page, towers
from periscope_export.published import open_retriever
from periscope_export.recipes.overrides import Settings
from periscope_export.repository.writing import write_preparation
from periscope_runtime.asked import Asked
from periscope_runtime.item import Item as Sent
from periscope_runtime.prepare import Preparer, Row
from periscope_testing.reference import Item, Reference


def preparing(checkpoint: Path, recipe: str, folder: Path, settings: Settings | None = None) -> Callable[[Item], Row]:
    """Return what prepares an item of a checkpoint's retriever."""
    retriever = open_retriever(str(checkpoint), recipe, settings=settings)
    preparer = Preparer(write_preparation(folder, "r", retriever.recipe, retriever.tokenizer)["text"])

    def row(item: Item) -> Row:
        sent = Sent(
            text=None if item.text is None else item.text.encode(),
            images=() if item.image is None else (encode(item.image),),
            video=None if item.video is None else [encode(frame) for frame in item.video],
        )
        return preparer.item(sent, Asked(item.role, item.instruction, item.task))

    return row


def largest_difference(checkpoint: Path, recipe: str, reference: Reference, folder: Path) -> float:
    """Return how far the towers in torch are from the published vectors of a text and a page."""
    tensors = towers(open_retriever(str(checkpoint), recipe), folder)
    wanted = {"text": reference.embed(Item("revenue by region")), "image": reference.embed(Item(image=page()))}
    return max(float(np.abs(tensors[path]["dense"][0] - found.dense).max()) for path, found in wanted.items())
