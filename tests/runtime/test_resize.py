"""The size that a page is resized to."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as published

from periscope_runtime.errors import PreparationError
from periscope_runtime.recipe import Area, ImagePolicy
from periscope_runtime.resize import check_aspect_ratio, resize, smart_resize
from runtime.pictures import noise

# Lengths of all magnitudes, with the halves where rounding decides among them.
SIDES = st.one_of(st.integers(1, 60), st.integers(1, 9000), st.integers(0, 80).map(lambda n: 14 + 28 * n))
SIZES = st.tuples(SIDES, SIDES).filter(lambda size: max(size) <= 200 * min(size))
BOUNDS = st.sampled_from([(3136, 602112), (3136, 1003520), (200704, 602112), (3136, 3136), (50176, 12845056)])


def sized(height: int, width: int, policy: ImagePolicy) -> tuple[int, int]:
    """The size of a page whose policy has one step, which bounds its area."""
    check_aspect_ratio(height, width, policy)
    return smart_resize(height, width, policy, Area())


def with_bounds(policy: ImagePolicy, bounds: tuple[int, int]) -> ImagePolicy:
    return replace(policy, min_pixels=bounds[0], max_pixels=bounds[1])


@given(SIZES, BOUNDS)
@settings(deadline=None, max_examples=500)
def test_the_size_is_the_published_one(policy: ImagePolicy, size: tuple[int, int], bounds: tuple[int, int]) -> None:
    expected = published(*size, factor=28, min_pixels=bounds[0], max_pixels=bounds[1])

    assert sized(*size, with_bounds(policy, bounds)) == expected


@given(SIZES)
@settings(deadline=None, max_examples=300)
def test_both_sides_hold_whole_visual_tokens(policy: ImagePolicy, size: tuple[int, int]) -> None:
    height, width = sized(*size, policy)

    assert height % 28 == 0 < height
    assert width % 28 == 0 < width


@given(SIZES)
@settings(deadline=None, max_examples=300)
def test_the_area_stays_within_the_bounds(policy: ImagePolicy, size: tuple[int, int]) -> None:
    height, width = sized(*size, policy)

    # A strip so thin that one token is its whole height cannot be made smaller, so the lower bound alone is strict.
    smallest, largest = policy.pixels(Area())
    assert smallest <= height * width
    assert height * width <= largest or 28 in (height, width)


@given(SIZES)
@settings(deadline=None, max_examples=300)
def test_neither_side_strays_more_than_one_token_from_its_exact_length(
    policy: ImagePolicy, size: tuple[int, int]
) -> None:
    area = size[0] * size[1]
    rounded = round(size[0] / 28) * round(size[1] / 28) * 28**2
    smallest, largest = policy.pixels(Area())
    scale = 1.0
    if rounded > largest:
        scale = math.sqrt(largest / area)
    elif rounded < smallest:
        scale = math.sqrt(smallest / area)

    for length, exact in zip(sized(*size, policy), (side * scale for side in size), strict=True):
        assert abs(length - exact) <= 28 + 1e-9


@given(SIZES)
@settings(deadline=None, max_examples=300)
def test_a_page_on_its_side_gets_the_same_size_on_its_side(policy: ImagePolicy, size: tuple[int, int]) -> None:
    height, width = size

    assert sized(width, height, policy) == sized(height, width, policy)[::-1]


@pytest.mark.parametrize(("side", "expected"), [(70, 56), (98, 112), (126, 112), (154, 168)])
def test_halves_of_a_token_round_to_even(policy: ImagePolicy, side: int, expected: int) -> None:
    assert sized(side, side, policy) == (expected, expected)


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (3, 600)])
def test_an_aspect_ratio_of_exactly_the_limit_passes(policy: ImagePolicy, size: tuple[int, int]) -> None:
    assert sized(*size, policy) == published(*size, min_pixels=3136, max_pixels=602112)


@pytest.mark.parametrize("size", [(1, 201), (201, 1), (3, 601), (5, 9000)])
def test_an_aspect_ratio_above_the_limit_is_refused_with_the_size(policy: ImagePolicy, size: tuple[int, int]) -> None:
    with pytest.raises(
        PreparationError, match=f"^has {size[1]} x {size[0]} pixels, an aspect ratio of .* limit of 200"
    ):
        sized(*size, policy)


def test_a_page_that_fits_keeps_every_pixel(policy: ImagePolicy) -> None:
    page = noise(84, 140)

    np.testing.assert_array_equal(np.asarray(resize(page, policy)), np.asarray(page))


@pytest.mark.parametrize("resample", ["bicubic", "bilinear", "lanczos"])
def test_every_filter_of_a_recipe_is_a_filter_of_its_own(policy: ImagePolicy, resample: str) -> None:
    page = noise(100, 150)
    resized = {
        name: resize(page, replace(policy, resample=name)).tobytes() for name in ("bicubic", "bilinear", "lanczos")
    }

    assert [name for name, pixels in resized.items() if pixels == resized[resample]] == [resample]
