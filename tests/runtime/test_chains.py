"""Several steps to the size of a page, as published systems take them one after the other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as of_the_processor

from periscope_runtime.lengths import usual_tokens, visual_tokens
from periscope_runtime.recipe import Area, Crop, ImagePolicy, ResizeStep, Trim
from periscope_runtime.resize import resize, smart_resize
from periscope_testing.torchvision_operators import declare_torchvision_operators
from runtime.pictures import noise

declare_torchvision_operators()

SIDES = st.one_of(st.integers(1, 60), st.integers(1, 400))
FIRST = Area(multiple=28, min_pixels=4 * 28**2, max_pixels=16384 * 28**2, min_side=1)


def chain(policy: ImagePolicy, *steps: Area, **changes: Any) -> ImagePolicy:
    return replace(policy, resize=tuple(ResizeStep(area=step) for step in steps), **changes)


def gme(policy: ImagePolicy) -> ImagePolicy:
    """gme_inference.py: qwen-vl-utils with a clamped ratio, then the processor with 256 to 1280 tokens."""
    steps = (replace(FIRST, clamp_ratio=200), Area())
    changed = chain(policy, *steps, min_pixels=256 * 28**2, max_pixels=1280 * 28**2)
    return replace(changed, max_aspect_ratio=None)


def published_clamp(height: int, width: int) -> tuple[int, int]:
    """As its smart_resize, word by word."""
    h_bar, w_bar = (max(28, round(side / 28) * 28) for side in (height, width))
    if h_bar * w_bar < 4 * 28**2:
        beta = math.sqrt(4 * 28**2 / (height * width))
        h_bar, w_bar = (math.ceil(side * beta / 28) * 28 for side in (height, width))
    if max(h_bar, w_bar) / min(h_bar, w_bar) > 200:
        if h_bar > w_bar:
            h_bar = w_bar * 200
        else:
            w_bar = h_bar * 200
    return h_bar, w_bar


@given(SIDES, SIDES)
@settings(deadline=None, max_examples=60)
def test_two_resizes_of_pixels(policy: ImagePolicy, width: int, height: int) -> None:
    """Against the code of qwen-vl-utils, then transformers': gme_inference.py calls both."""
    from qwen_vl_utils import fetch_image

    page = noise(width, height)
    if max(page.size) > 200 * min(page.size):
        return
    first = fetch_image({"image": page, "min_pixels": FIRST.min_pixels, "max_pixels": FIRST.max_pixels}, 14)
    size = of_the_processor(first.height, first.width, 28, 256 * 28**2, 1280 * 28**2)
    wanted = first.resize(size[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(resize(page, gme(policy))), np.asarray(wanted))


@given(st.integers(1, 10), st.integers(1000, 40000), st.booleans())
@settings(deadline=None, max_examples=100)
def test_a_narrow_page_is_clamped(policy: ImagePolicy, short: int, long: int, turned: bool) -> None:
    size = (short, long) if turned else (long, short)
    assert smart_resize(*size, policy, replace(FIRST, clamp_ratio=200)) == published_clamp(*size)


def test_an_extreme_page_is_prepared(policy: ImagePolicy) -> None:
    height, width = of_the_processor(*published_clamp(3, 9000), 28, 256 * 28**2, 1280 * 28**2)
    assert resize(noise(9000, 3), gme(policy)).size == (width, height)


CHAINS = {
    "two budgets": (replace(FIRST, clamp_ratio=200), Area()),
    "two multiples": (Area(28, 4 * 28**2, 300 * 28**2, 1), Area()),  # U-MARVEL on Qwen3-VL
    "a larger multiple": (Area(56), Area(min_side=1)),
    "clamped": (Area(clamp_ratio=3, min_side=1),),
}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("patch_size", [14, 16])
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 300), st.integers(0, 600))
@settings(deadline=None, max_examples=150)
def test_no_page_has_fewer_or_more_visual_tokens(
    policy: ImagePolicy, name: str, patch_size: int, height: int, width: int, smallest: int, more: int
) -> None:
    area = (2 * patch_size) ** 2
    changes = {"patch_size": patch_size, "min_pixels": smallest * area, "max_pixels": (smallest + more) * area}
    policy = chain(policy, *CHAINS[name][:-1], CHAINS[name][-1], **changes)
    if max(height, width) > 200 * min(height, width):
        return
    size = height, width
    for step in CHAINS[name]:
        size = smart_resize(*size, policy, step)
    found = visual_tokens(policy)
    assert found.smallest <= math.prod(size) // area <= found.largest


@given(st.integers(1, 3000), st.integers(1, 3000))
@settings(deadline=None, max_examples=100)
def test_trimmed_pages_are_within_their_lengths(policy: ImagePolicy, height: int, width: int) -> None:
    trimmed = replace(policy, resize=(ResizeStep(area=Area(multiple=40)), ResizeStep(trim=Trim())))
    if max(height, width) > 200 * min(height, width):
        return
    rows, columns = (side // 28 for side in smart_resize(height, width, trimmed, Area(multiple=40)))
    found = visual_tokens(trimmed)
    assert found.smallest <= rows * columns <= found.largest


def test_a_step_that_changes_no_page_allows_no_more(policy: ImagePolicy) -> None:
    """LamRA: at most 300 visual tokens, then the processor, whose own limit is far above."""
    first = Area(min_pixels=4 * 28**2, max_pixels=300 * 28**2, min_side=1)
    both = chain(policy, first, Area(), max_pixels=16384 * 28**2)
    assert tuple(visual_tokens(both)) == (4, 300)
    assert usual_tokens(both) == 300
    # One that is below the first is what counts.
    assert usual_tokens(chain(policy, first, Area(), max_pixels=256 * 28**2)) == 256


def test_a_fixed_size_after_others_is_the_size(policy: ImagePolicy) -> None:
    steps = (ResizeStep(area=Area()), ResizeStep(crop=Crop(56)))
    fixed = replace(policy, resize=steps)
    assert resize(noise(300, 200), fixed).size == (56, 56)
    assert tuple(visual_tokens(fixed)) == (4, 4)
