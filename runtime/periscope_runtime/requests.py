"""The tensors of one request to the items that they hold.

Inputs are arrays of bytes by name, as they come over the wire; optional ones may be absent. B items, K candidates, N
frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item, decoded
from periscope_runtime.prompt import Asked

Inputs = Mapping[str, npt.NDArray[Any]]


class PairRequest(NamedTuple):
    """A query, and the documents that are judged beside it."""

    query: Item
    documents: list[Item]
    asked: Asked


def items(inputs: Inputs) -> list[tuple[Item, Asked]]:
    """Return what is embedded: TEXT, IMAGE [B, 1], VIDEO [B, N], each with its ROLE, INSTRUCTION and TASK [B, 1].

    An empty text beside an image or a video is none. Raises `PreparationError` for what is not UTF-8.
    """
    count = len(next(inputs[name] for name in ("VIDEO", "IMAGE", "TEXT") if name in inputs))
    texts, images = (_column(inputs, name, count) for name in ("TEXT", "IMAGE"))
    videos = [None] * count if "VIDEO" not in inputs else [list(frames) for frames in inputs["VIDEO"]]
    alone = "IMAGE" not in inputs and "VIDEO" not in inputs
    whats = zip(*(_column(inputs, name, count) for name in ("ROLE", "INSTRUCTION", "TASK")), strict=True)
    return [
        (Item(text if text or alone else None, image, video), _asked(*what))
        for text, image, video, what in zip(texts, images, videos, whats, strict=True)
    ]


def pairs(inputs: Inputs, most: int) -> PairRequest:
    """Return a query and its candidates: QUERY_TEXT, QUERY_IMAGE [1], QUERY_VIDEO [N], TEXT, IMAGE [K], and VIDEO, all
    frames of all candidates, of which the k-th has VIDEO_FRAMES[k]. An empty string is no text, or no image.

    Raises `PreparationError` for more than `most` candidates, none at all, and lists of different lengths.
    """
    text, image = (_only(inputs, name) for name in ("QUERY_TEXT", "QUERY_IMAGE"))
    query = Item(text or None, image or None, list(inputs["QUERY_VIDEO"]) if "QUERY_VIDEO" in inputs else None)
    lengths = {name: len(inputs[name]) for name in ("TEXT", "IMAGE", "VIDEO_FRAMES") if name in inputs}
    if len(set(lengths.values())) != 1 or not (count := next(iter(lengths.values()))):
        found = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "none"
        raise PreparationError(f"has candidates of different number ({found})", "Send one entry a candidate in each")
    if count > most:
        raise PreparationError(f"has {count} candidates, above the limit of {most}", "Send them in several requests")
    texts, images = (list(inputs[name]) if name in inputs else [b""] * count for name in ("TEXT", "IMAGE"))
    videos = list(_videos(inputs, count))
    documents = [Item(text or None, one or None, video) for text, one, video in zip(texts, images, videos, strict=True)]
    return PairRequest(query, documents, _asked(None, _only(inputs, "INSTRUCTION"), _only(inputs, "TASK")))


def dimensions(inputs: Inputs, smallest: int, width: int) -> int:
    """Return how many dimensions of a dense vector are asked for, all where nothing is said.

    Raises `PreparationError` outside `smallest .. width`, and for items of one request that ask for different numbers.
    """
    wanted = set(inputs["DIMENSIONS"].ravel().tolist()) if "DIMENSIONS" in inputs else {width}
    if len(wanted) > 1:
        raise PreparationError("asks for several numbers of dimensions", "Send items with one number in one request")
    (found,) = wanted
    if not smallest <= found <= width:
        raise PreparationError(f"asks for {found} dimensions", f"Ask for {smallest} to {width}")
    return int(found)


def _videos(inputs: Inputs, count: int) -> Iterator[list[bytes] | None]:
    frames = list(inputs.get("VIDEO", ()))
    counts = [int(number) for number in inputs.get("VIDEO_FRAMES", np.zeros(count, np.int32))]
    if min(counts) < 0 or sum(counts) != len(frames):
        raise PreparationError(
            f"has {len(frames)} frames in VIDEO and counts {counts} in VIDEO_FRAMES", "Make the counts add up"
        )
    begin = 0
    for number in counts:
        yield frames[begin : begin + number] if number else None
        begin += number


def _column(inputs: Inputs, name: str, count: int) -> list[bytes | None]:
    return list(inputs[name].ravel()) if name in inputs else [None] * count


def _only(inputs: Inputs, name: str) -> bytes | None:
    return _column(inputs, name, 1)[0]


def _asked(role: bytes | None, instruction: bytes | None, task: bytes | None) -> Asked:
    return Asked(*(None if one is None else decoded(one) for one in (role, instruction, task)))
