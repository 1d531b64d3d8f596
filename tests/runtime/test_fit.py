"""Pages of a fixed size: stretched, or cropped as torchvision crops them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from periscope_runtime.errors import PreparationError
from periscope_runtime.lengths import Range, visual_tokens
from periscope_runtime.patches import patchify
from periscope_runtime.recipe import ImagePolicy
from periscope_runtime.resize import resize
from periscope_testing.torchvision_operators import declare_torchvision_operators
from runtime.pictures import noise

declare_torchvision_operators()

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))


def fixed(policy: ImagePolicy, fit: Literal["stretch", "crop"], side: int = 56) -> ImagePolicy:
    return replace(policy, fit=fit, side=side, min_pixels=None, max_pixels=None, temporal_patch_size=1, merge_size=1)


@given(SIZES)
@settings(deadline=None, max_examples=150)
def test_a_crop_is_torchvisions(policy: ImagePolicy, size: tuple[int, int]) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    page = noise(*size)
    if max(size) > policy.max_aspect_ratio * min(size):
        with pytest.raises(PreparationError, match="aspect ratio"):
            resize(page, fixed(policy, "crop"))
        return
    published = Compose([Resize(56, InterpolationMode.BICUBIC), CenterCrop(56)])
    np.testing.assert_array_equal(np.asarray(resize(page, fixed(policy, "crop"))), np.asarray(published(page)))


@given(SIZES)
@settings(deadline=None, max_examples=50)
def test_a_stretched_page_loses_its_aspect_ratio(policy: ImagePolicy, size: tuple[int, int]) -> None:
    page = noise(*size)
    if max(size) > policy.max_aspect_ratio * min(size):
        return
    wanted = page.resize((56, 56), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(resize(page, fixed(policy, "stretch"))), np.asarray(wanted))


def test_patches_that_nothing_merges_are_in_reading_order(policy: ImagePolicy) -> None:
    page, fit = noise(56, 56), fixed(policy, "stretch")
    patches = patchify([page], fit)
    assert patches.grids == ((4, 4),)
    assert patches.positions_P2.tolist() == [[row, column] for row in range(4) for column in range(4)]
    pixels = np.asarray(page)
    for patch, (row, column) in zip(patches.patches_PC, patches.positions_P2, strict=True):
        wanted = pixels[14 * row : 14 * row + 14, 14 * column : 14 * column + 14].transpose(2, 0, 1)
        np.testing.assert_array_equal(patch.reshape(3, 14, 14), wanted)


def test_every_page_has_as_many_visual_tokens(policy: ImagePolicy) -> None:
    assert visual_tokens(fixed(policy, "crop")) == Range(16, 16)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fit": "crop"},
        {"fit": "crop", "side": 56},
        {"side": 56},
        {"min_pixels": None},
        {"fit": "stretch", "side": 57, "min_pixels": None, "max_pixels": None},
    ],
)
def test_a_fit_and_its_numbers_belong_together(policy: ImagePolicy, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"side|min_pixels"):
        replace(policy, **wrong)
