"""The protocol of a published implementation, and the items that it takes.

Legend: D documents, P patches, C bytes of a patch, T tokens, K dimensions of a late vector, H of a dense one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Item:
    """A text, a page, a video, or several of them as one: to embed, or as one side of a pair.

    text: None where there is none
    image: a page
    video: its frames, in order
    role: the prompt that is asked for
    instruction: None for that of the system
    task: by its name; None for that of the system
    dimensions: how many of a dense vector are kept; None for all
    """

    text: str | None = None
    image: Image.Image | None = None
    video: tuple[Image.Image, ...] | None = None
    role: str = "query"
    instruction: str | None = None
    dimensions: int | None = None
    task: str | None = None

    def contents(self) -> dict[str, Any]:
        """Return what there is of text, image and video, by name."""
        parts = {"text": self.text, "image": self.image, "video": self.video}
        return {name: part for name, part in parts.items() if part is not None}


class Vectors(NamedTuple):
    """The vectors of an item: late [T, K] and dense [H], None where the system has none."""

    late: Floats | None = None
    dense: Floats | None = None


class Reference(Protocol):
    """A published implementation, loaded from a checkpoint as its users load it, in float32 on the CPU.

    A system without vectors or without pages does without `embed` and `pixels`.
    """

    def embed(self, item: Item) -> Vectors:
        """Return an item's vectors, without padding."""

    def scores(self, query: Item, documents: Sequence[Item]) -> Floats:
        """Return a score [D] of the query with each document."""

    def pixels(self, page: Image.Image) -> NDArray[np.uint8]:
        """Return a page as the vision tower takes it, before it is rescaled: [P, C]."""

    def ids(self, *items: Item) -> NDArray[np.integer[Any]]:
        """Return the token ids [T] of an item, or of a query and a document in one prompt."""


def cosines(reference: Reference, query: Item, documents: Sequence[Item]) -> Floats:
    """Return the scores [D] of a system whose dense vectors have length 1."""
    query_H, *documents_DH = (np.asarray(reference.embed(item).dense) for item in (query, *documents))
    return np.asarray(np.stack(documents_DH) @ query_H)


def maxsim(reference: Reference, query: Item, documents: Sequence[Item]) -> Floats:
    """Return MaxSim [D] of a system's late vectors, by colpali-engine's scorer."""
    from colpali_engine.utils.processing_utils import BaseVisualRetrieverProcessor

    late = [torch.from_numpy(np.asarray(reference.embed(item).late)) for item in (query, *documents)]
    return np.asarray(BaseVisualRetrieverProcessor.score_multi_vector(late[:1], late[1:], device="cpu")[0])


def patches(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cut an image [channels, rows, columns] into patches [P, C]: row by row, each channel, row, column."""
    channels, rows, columns = pixels.shape
    cut = pixels.reshape(channels, rows // side, side, columns // side, side).transpose(1, 3, 0, 2, 4)
    return np.ascontiguousarray(cut).reshape(-1, channels * side * side)
