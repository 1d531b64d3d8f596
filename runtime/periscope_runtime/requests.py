"""The tensors of one request to the items that they hold.

Inputs are arrays of bytes by name, as they come over the wire; optional ones may be absent. B items, N candidates, X
frames or images of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from periscope_runtime.asked import Asked
from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item, decoded

Inputs = Mapping[str, npt.NDArray[Any]]


class PairRequest(NamedTuple):
    """A query, and the documents that are judged beside it."""

    query: Item
    documents: list[Item]
    asked: Asked


def items(inputs: Inputs) -> list[tuple[Item, Asked]]:
    """Return what is embedded: TEXT [B, 1], IMAGE, VIDEO [B, X], each with its ROLE, INSTRUCTION and TASK [B, 1].

    An empty text beside an image or a video is none, nor are empty images at the end. Raises `PreparationError`
    for what is not UTF-8.
    """
    count = len(next(inputs[name] for name in ("VIDEO", "IMAGE", "TEXT") if name in inputs))
    texts = _column(inputs, "TEXT", count)
    images = [_without_empty(files) for files in inputs["IMAGE"]] if "IMAGE" in inputs else [()] * count
    videos = [None] * count if "VIDEO" not in inputs else [list(frames) for frames in inputs["VIDEO"]]
    alone = "IMAGE" not in inputs and "VIDEO" not in inputs
    whats = zip(*(_column(inputs, name, count) for name in ("ROLE", "INSTRUCTION", "TASK")), strict=True)
    return [
        (Item(text if text or alone else None, several, video), _asked(*what))
        for text, several, video, what in zip(texts, images, videos, whats, strict=True)
    ]


def pairs(inputs: Inputs, most: int) -> PairRequest:
    """Return a query and its candidates: QUERY_TEXT [1], QUERY_IMAGE, QUERY_VIDEO [X], TEXT, IMAGE [N], and VIDEO, all
    frames of all candidates, of which the n-th has VIDEO_FRAMES[n]. An empty string is no text, or no image. With
    IMAGE_COUNTS [N], IMAGE holds all images of all candidates likewise.

    Raises `PreparationError` for more than `most` candidates, none at all, and lists of different lengths.
    """
    images = tuple(image for image in inputs.get("QUERY_IMAGE", ()) if image)
    video = list(inputs["QUERY_VIDEO"]) if "QUERY_VIDEO" in inputs else None
    query = Item(_only(inputs, "QUERY_TEXT") or None, images, video)
    by_candidate = ("TEXT", "IMAGE_COUNTS" if "IMAGE_COUNTS" in inputs else "IMAGE", "VIDEO_FRAMES")
    lengths = {name: len(inputs[name]) for name in by_candidate if name in inputs}
    if len(set(lengths.values())) != 1 or not (count := next(iter(lengths.values()))):
        found = ", ".join(f"{name} {length}" for name, length in lengths.items()) or "none"
        raise PreparationError(f"has candidates of different number ({found})", "Send one entry a candidate in each")
    if count > most:
        raise PreparationError(f"has {count} candidates, above the limit of {most}", "Send them in several requests")
    texts = inputs.get("TEXT", [b""] * count)
    # One image each where their numbers are not said.
    shown = dict(inputs) if "IMAGE_COUNTS" in inputs or "IMAGE" not in inputs else _counted(inputs["IMAGE"])
    parts = zip(
        texts,
        _parts(shown, "IMAGE", "IMAGE_COUNTS", count),
        _parts(inputs, "VIDEO", "VIDEO_FRAMES", count),
        strict=True,
    )
    documents = [Item(text or None, tuple(several), frames or None) for text, several, frames in parts]
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


def _counted(images_K: npt.NDArray[Any]) -> Inputs:
    """Return one image a candidate, or none, as several would come."""
    there_K = np.array([bool(image) for image in images_K])
    return {"IMAGE": images_K[there_K], "IMAGE_COUNTS": there_K.astype(np.int32)}


def _parts(inputs: Inputs, name: str, of_each: str, count: int) -> Iterator[list[bytes]]:
    """Yield the files of each candidate, of the files of all."""
    files = list(inputs.get(name, ()))
    counts = [int(number) for number in inputs.get(of_each, np.zeros(count, np.int32))]
    if min(counts) < 0 or sum(counts) != len(files):
        what = "frames" if name == "VIDEO" else "images"
        raise PreparationError(
            f"has {len(files)} {what} in {name} and counts {counts} in {of_each}", "Make the counts add up"
        )
    begin = 0
    for number in counts:
        yield files[begin : begin + number]
        begin += number


def _without_empty(files: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the images of an item without the empty strings that fill up its row; the first stays, to be refused."""
    first, *others = files
    while others and not others[-1]:
        others.pop()
    return (first, *others)


def _column(inputs: Inputs, name: str, count: int) -> list[bytes | None]:
    return list(inputs[name].ravel()) if name in inputs else [None] * count


def _only(inputs: Inputs, name: str) -> bytes | None:
    return _column(inputs, name, 1)[0]


def _asked(role: bytes | None, instruction: bytes | None, task: bytes | None) -> Asked:
    return Asked(*(None if one is None else decoded(one) for one in (role, instruction, task)))
