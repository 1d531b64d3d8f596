"""How long the tensors are that preparation sends: between which lengths, of all items that it accepts.

Engines that are compiled for certain lengths have to cover these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from periscope_runtime.recipe import ImagePolicy, ItemPath, Preparation
from periscope_runtime.video import frame_pixels


class Range(NamedTuple):
    """The smallest and the largest length of an axis."""

    smallest: int
    largest: int


class ItemLengths(NamedTuple):
    """Lengths of an item after padding: all of its tokens, and the visual ones."""

    tokens: Range
    visual_tokens: Range


def item_lengths(preparation: Preparation, prompts: Mapping[ItemPath, Range | None]) -> dict[ItemPath, ItemLengths]:
    """Return the lengths of everything that a retriever takes, by its path.

    `prompts` says how many tokens an item of a path has beside its visual ones, at least and at most; None where its
    only state is that of the image tower.
    """
    return {path: _padded(path, prompts[path], _visual(path, preparation), preparation) for path in prompts}


def _padded(path: ItemPath, prompt: Range | None, visual: Range, preparation: Preparation) -> ItemLengths:
    buckets, merged = preparation.buckets, preparation.image.merge_size**2
    if path == "text" and prompt is not None:
        return ItemLengths(Range(*(bucketed(tokens, buckets.text_tokens) for tokens in prompt)), visual)
    # An item without images is padded to the smallest bucket of patches.
    padded = Range(*(bucketed(max(1, tokens * merged), buckets.patches) // merged for tokens in visual))
    if prompt is None:
        return ItemLengths(Range(*[bucketed(1, buckets.page_tokens)] * 2), padded)
    most = preparation.limits.tokens or prompt.largest + visual.largest
    tokens = (prompt.smallest + visual.smallest, min(prompt.largest + visual.largest, most))
    return ItemLengths(Range(*(bucketed(length, buckets.page_tokens) for length in tokens)), padded)


def _visual(path: ItemPath, preparation: Preparation) -> Range:
    """Return how many visual tokens an item can have."""
    if path == "text":
        return Range(0, 0)
    page = visual_tokens(preparation.image)
    video = page if preparation.video is None else _video_tokens(preparation)
    if path != "rerank":
        return {"image": page, "video": video}[path]
    most = 2 * max(page.largest, video.largest)
    return Range(0, min(most, preparation.limits.tokens or most))


def _video_tokens(preparation: Preparation) -> Range:
    video, image = preparation.video, preparation.image
    assert video is not None
    counts = range(1, video.max_frames + 1)
    areas = [frame_pixels(frames, image, video) for frames in counts]
    lengths = [
        Range(*(-(-frames // image.temporal_patch_size) * tokens for tokens in area_tokens(image, *area)))
        for frames, area in zip(counts, areas, strict=True)
    ]
    most = max(one.largest for one in lengths)
    return Range(min(one.smallest for one in lengths), min(most, preparation.limits.tokens or most))


def visual_tokens(image: ImagePolicy) -> Range:
    """Return how many visual tokens a page can have at least and at most."""
    if image.side is not None:
        return Range(*[(image.side // image.factor) ** 2] * 2)
    return area_tokens(image, *image.area)


def area_tokens(image: ImagePolicy, min_pixels: int, max_pixels: float) -> Range:
    """Return how many visual tokens an image within an area can have, by the rule of `resize.within_area`."""
    area = image.factor**2
    smallest, largest = min_pixels / area, max_pixels / area
    # A narrow page that is scaled down keeps a side of one token, and may then be longer than its area allows.
    narrow = math.sqrt(largest * image.max_aspect_ratio)
    # A small one that is scaled up has both sides rounded up: (a + 1) (b + 1), most where it is narrowest.
    grown = smallest + 1 + math.sqrt(smallest * image.max_aspect_ratio) + math.sqrt(smallest / image.max_aspect_ratio)
    # A large one that is scaled down has both sides rounded down, each to more than its half.
    shrunk = largest / 4
    return Range(max(1, math.floor(min(smallest, shrunk))), math.floor(max(largest, narrow, grown)))


def bucketed(length: int, multiple: int) -> int:
    """Return the smallest multiple that is not below a length."""
    return -(-length // multiple) * multiple
