"""How long the tensors are that preparation sends: between which lengths, of all texts and pages that it accepts.

Engines that are compiled for certain lengths have to cover these.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from periscope_runtime.recipe import ImagePolicy, Preparation


class Range(NamedTuple):
    """The smallest and the largest length of an axis."""

    smallest: int
    largest: int


class ItemLengths(NamedTuple):
    """Lengths after padding: tokens of a text, tokens of a page, visual tokens of a page."""

    text_tokens: Range
    page_tokens: Range
    visual_tokens: Range


def item_lengths(preparation: Preparation, page_prompts: Collection[int]) -> ItemLengths:
    """Return the lengths of everything that a retriever takes.

    `page_prompts` holds, for each role that takes pages, how many tokens its prompt has beside the visual ones.
    """
    buckets, merged = preparation.buckets, preparation.image.merge_size**2
    visual = visual_tokens(preparation.image)
    return ItemLengths(
        text_tokens=Range(buckets.text_tokens, bucketed(preparation.limits.text_tokens, buckets.text_tokens)),
        page_tokens=Range(
            bucketed(visual.smallest + min(page_prompts), buckets.page_tokens),
            bucketed(visual.largest + max(page_prompts), buckets.page_tokens),
        ),
        visual_tokens=Range(*(bucketed(tokens * merged, buckets.patches) // merged for tokens in visual)),
    )


def visual_tokens(image: ImagePolicy) -> Range:
    """Return how many visual tokens a page can have at least and at most, by the rule of `resize.smart_resize`."""
    area = image.factor**2
    smallest, largest = image.min_pixels / area, image.max_pixels / area
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
