"""Lengths of the tensors that preparation sends: the smallest and the largest, of all items that it accepts.

Engines that are compiled for certain lengths have to cover these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from periscope_runtime.paths import VIDEO, ItemPath
from periscope_runtime.recipe import Area, Crop, ImagePolicy, Pad, Preparation, Stretch, Trim
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
    """The visual side of an item: the number of images, or groups of frames; visual tokens of one, and of all."""

    images: Range
    each: Range
    all: Range


def _padded(path: ItemPath, prompt: Range | None, visual: _Visual, preparation: Preparation) -> ItemLengths:
    buckets, image = preparation.buckets, preparation.image
    if (image is None or not path.visual) and prompt is not None:
        return ItemLengths(Range(*(bucketed(tokens, buckets.text_tokens) for tokens in prompt)), *visual)

    merged = preparation.page_policy.merge_size**2

    # An item without images is padded to the smallest bucket of patches.
    def padded(lengths: Range) -> Range:
        return Range(*(bucketed(max(1, tokens * merged), buckets.patches) // merged for tokens in lengths))

    row = _slots(visual.each, preparation.page_policy)
    images = (padded(visual.all), Range(*(max(1, count) for count in visual.images)), padded(row))
    if prompt is None:
        return ItemLengths(Range(*[bucketed(1, buckets.page_tokens)] * 2), *images)
    most = preparation.limits.tokens or prompt.largest + visual.all.largest
    tokens = (prompt.smallest + visual.all.smallest, min(prompt.largest + visual.all.largest, most))
    return ItemLengths(Range(*(bucketed(length, buckets.page_tokens) for length in tokens)), *images)


def _slots(tokens: Range, image: ImagePolicy) -> Range:
    """Return how many places images of so many visual tokens take at least and at most, where windows have all of
    theirs.
    """
    if image.window == 1:
        return tokens
    longest = math.inf if image.max_aspect_ratio is None else image.max_aspect_ratio

    def places(rows: int) -> int:
        # Sides are rounded to whole tokens, so that a page may have nearly a row more than it shows.
        return window_slots(
            rows, min(tokens.largest // rows, math.ceil(min(longest * (rows + 1), 2**31))), image.window
        )

    narrow = max((places(rows) for rows in range(1, math.isqrt(tokens.largest) + 1)), default=0)
    return Range(bucketed(tokens.smallest, image.window**2), narrow)


def window_slots(rows: int, columns: int, window: int) -> int:
    """Return how many places a grid of visual tokens takes, in windows of `window` x `window` of them.

    >>> window_slots(5, 8, 4)
    64
    """
    return bucketed(rows, window) * bucketed(columns, window)


def _visual(path: ItemPath, preparation: Preparation) -> _Visual:
    if preparation.image is None or not path.visual:
        return _Visual(Range(0, 0), Range(0, 0), Range(0, 0))
    tokens = visual_tokens(preparation.image)
    # More in one page are refused, whatever its limit of pixels allows.
    tokens = Range(tokens.smallest, min(tokens.largest, preparation.limits.tokens or tokens.largest))
    page = _Visual(Range(1, 1), tokens, tokens)
    if (tiles := preparation.image.tiles) is not None:
        # Several may share a row, so that there is one row at least.
        page = _Visual(Range(1, tiles.counts[1]), Range(*[tile_tokens(preparation.image)] * 2), tokens)
    if (several := preparation.images) is not None:
        largest = several.most * page.all.largest
        page = _Visual(
            Range(1, several.most * page.images.largest),
            page.each,
            Range(page.all.smallest, min(largest, preparation.limits.tokens or largest)),
        )
    video = page if preparation.video is None else _video(preparation)
    if path.embedded:
        return video if path is VIDEO else page
    most = 2 * max(page.all.largest, video.all.largest)
    return _Visual(
        Range(0, 2 * max(page.images.largest, video.images.largest)),
        Range(0, max(page.each.largest, video.each.largest)),
        Range(0, min(most, preparation.limits.tokens or most)),
    )


def _video(preparation: Preparation) -> _Visual:
    video, image = preparation.video, preparation.page_policy
    assert video is not None
    assert image.max_aspect_ratio is not None
    counts = range(1, video.max_frames + 1)
    groups = [-(-frames // image.temporal_patch_size) for frames in counts]
    if video.frame_multiple is None:
        tokens = [visual_tokens(image)] * len(counts)
    else:
        areas = [frame_pixels(frames, image, video) for frames in counts]
        tokens = [area_tokens(*area, image.factor, image.max_aspect_ratio) for area in areas]
    lengths = [Range(*(count * length for length in one)) for count, one in zip(groups, tokens, strict=True)]
    most = max(one.largest for one in lengths)
    return _Visual(
        Range(1, groups[-1]),
        Range(min(one.smallest for one in tokens), max(one.largest for one in tokens)),
        Range(min(one.smallest for one in lengths), min(most, preparation.limits.tokens or most)),
    )


def visual_tokens(image: ImagePolicy) -> Range:
    """Return how many visual tokens a page can have at least and at most."""
    if image.tiles is not None:
        return Range(*(count * tile_tokens(image) for count in image.tiles.counts))
    tokens, ratio, whole = Range(1, 1), image.max_aspect_ratio or math.inf, False
    for step in (one.kind for one in image.resize):
        if isinstance(step, Area):
            multiple = image.multiple(step)
            if whole and multiple == image.factor and step.clamp_ratio is None and _within(tokens, image, step):
                continue  # it leaves every page as the step before did
            whole = multiple == image.factor
            squares = area_tokens(*image.pixels(step), multiple, ratio, step.clamp_ratio or math.inf)
            tokens = _whole(squares, multiple / image.factor)
            # Both sides are rounded: the shorter one to its half at least, if not to one multiple.
            ratio = min(2 * ratio, step.clamp_ratio or math.inf)
        elif isinstance(step, Stretch | Crop | Pad) and (isinstance(step, Crop | Pad) or step.below is None):
            tokens, ratio, whole = Range(*[(image.length(step) // image.factor) ** 2] * 2), 1.0, False
    return tokens


def _within(tokens: Range, image: ImagePolicy, step: Area) -> bool:
    """Whether pages of so many visual tokens lie within the area of a step."""
    smallest, largest = image.pixels(step)
    return smallest <= tokens.smallest * image.factor**2 and tokens.largest * image.factor**2 <= largest


def tile_tokens(image: ImagePolicy) -> int:
    """Return how many visual tokens a tile has, of pages that are cut into tiles."""
    assert image.tiles is not None
    return (image.tiles.side // image.factor) ** 2


def _whole(squares: Range, tokens: float) -> Range:
    """Return how many visual tokens so many squares make, each of which is as long as so many tokens."""
    most = math.floor(squares.largest * tokens**2)
    if tokens.is_integer():
        return Range(math.floor(squares.smallest * tokens**2), most)
    # Pixels left over at two sides are trimmed, less than half of each.
    return Range(max(1, math.floor(squares.smallest * tokens**2 / 4)), most)


def area_tokens(min_pixels: int, max_pixels: float, factor: int, max_ratio: float, clamp: float = math.inf) -> Range:
    """Return how many squares of `factor` pixels an image within an area can have, by the rule of `resize.within_area`.

    Images come with an aspect ratio of up to `max_ratio` and leave with one of up to `clamp`.
    """
    smallest, largest, ratio = min_pixels / factor**2, max_pixels / factor**2, min(max_ratio, clamp)
    # A narrow page that is scaled down keeps a side of one square, and may then be longer than its area allows.
    narrow = min(math.sqrt(largest * max_ratio), clamp)
    # A small one that is scaled up has both sides rounded up: (a + 1) (b + 1), most where it is narrowest.
    grown = smallest + 1 + math.sqrt(smallest * ratio) + math.sqrt(smallest / ratio)
    if max_ratio > clamp:
        # Rounded up first, cut to the ratio of the shorter side then: at most clamp (a + 1)^2.
        grown = smallest + clamp + 2 * math.sqrt(smallest * clamp)
    # A large one that is scaled down has both sides rounded down, each to more than its half.
    shrunk = largest / 4
    return Range(max(1, math.floor(min(smallest, shrunk, clamp))), math.floor(max(largest, narrow, grown)))


def usual_tokens(image: ImagePolicy) -> int:
    """Return how many visual tokens most pages have: they come with more pixels than the limit."""
    if image.tiles is not None:
        return visual_tokens(image).largest
    last = next(one.kind for one in reversed(image.resize) if not isinstance(one.kind, Trim))
    if isinstance(last, Area):
        return min(image.pixels(last)[1] // image.factor**2, visual_tokens(image).largest)
    return visual_tokens(image).largest


def bucketed(length: int, multiple: int) -> int:
    """Return the smallest multiple that is not below a length."""
    return -(-length // multiple) * multiple
