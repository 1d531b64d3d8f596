"""How long the tensors are that preparation sends: between which lengths, of all items that it accepts.

Engines that are compiled for certain lengths have to cover these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from periscope_runtime.paths import VIDEO, ItemPath
from periscope_runtime.recipe import ImagePolicy, Preparation
from periscope_runtime.video import frame_pixels


class Range(NamedTuple):
    """The smallest and the largest length of an axis."""

    smallest: int
    largest: int


class ItemLengths(NamedTuple):
    """Lengths of an item after padding: all of its tokens, and the visual ones.

    `image_rows` says how many rows of patches it has, `row_tokens` of how many visual tokens each: see `image_rows.py`.
    """

    tokens: Range
    visual_tokens: Range
    image_rows: Range
    row_tokens: Range


def item_lengths(preparation: Preparation, prompts: Mapping[ItemPath, Range | None]) -> dict[ItemPath, ItemLengths]:
    """Return the lengths of everything that a retriever takes, by its path.

    `prompts` says how many tokens an item of a path has beside its visual ones, at least and at most; None where its
    only state is that of the image tower.
    """
    return {path: _padded(path, prompts[path], _visual(path, preparation), preparation) for path in prompts}


class _Visual(NamedTuple):
    """What an item shows: how many images, or groups of frames; visual tokens of one; visual tokens of all."""

    images: Range
    each: Range
    all: Range


def _padded(path: ItemPath, prompt: Range | None, visual: _Visual, preparation: Preparation) -> ItemLengths:
    buckets, merged = preparation.buckets, preparation.image.merge_size**2
    if not path.visual and prompt is not None:
        return ItemLengths(Range(*(bucketed(tokens, buckets.text_tokens) for tokens in prompt)), *visual)

    # An item without images is padded to the smallest bucket of patches.
    def padded(lengths: Range) -> Range:
        return Range(*(bucketed(max(1, tokens * merged), buckets.patches) // merged for tokens in lengths))

    images = (padded(visual.all), Range(*(max(1, count) for count in visual.images)), padded(visual.each))
    if prompt is None:
        return ItemLengths(Range(*[bucketed(1, buckets.page_tokens)] * 2), *images)
    most = preparation.limits.tokens or prompt.largest + visual.all.largest
    tokens = (prompt.smallest + visual.all.smallest, min(prompt.largest + visual.all.largest, most))
    return ItemLengths(Range(*(bucketed(length, buckets.page_tokens) for length in tokens)), *images)


def _visual(path: ItemPath, preparation: Preparation) -> _Visual:
    if not path.visual:
        return _Visual(Range(0, 0), Range(0, 0), Range(0, 0))
    tokens = visual_tokens(preparation.image)
    page = _Visual(Range(1, 1), tokens, tokens)
    video = page if preparation.video is None else _video(preparation)
    if path.embedded:
        return video if path is VIDEO else page
    most = 2 * max(page.all.largest, video.all.largest)
    return _Visual(
        Range(0, 2 * video.images.largest),
        Range(0, max(page.each.largest, video.each.largest)),
        Range(0, min(most, preparation.limits.tokens or most)),
    )


def _video(preparation: Preparation) -> _Visual:
    video, image = preparation.video, preparation.image
    assert video is not None
    groups = [-(-frames // image.temporal_patch_size) for frames in range(1, video.max_frames + 1)]
    areas = [frame_pixels(frames, image, video) for frames in range(1, video.max_frames + 1)]
    tokens = [area_tokens(image, *area) for area in areas]
    lengths = [Range(*(count * length for length in one)) for count, one in zip(groups, tokens, strict=True)]
    most = max(one.largest for one in lengths)
    return _Visual(
        Range(1, groups[-1]),
        Range(min(one.smallest for one in tokens), max(one.largest for one in tokens)),
        Range(min(one.smallest for one in lengths), min(most, preparation.limits.tokens or most)),
    )


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
