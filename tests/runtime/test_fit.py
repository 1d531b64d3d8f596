"""Steps to the size of a page, each against code of others, and fields that do not go together."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from periscope_runtime.errors import PreparationError
from periscope_runtime.lengths import Range, visual_tokens
from periscope_runtime.patches import patchify
from periscope_runtime.recipe import Area, Crop, ImagePolicy, Pad, ResizeStep, Stretch, Trim
from periscope_runtime.resize import resize
from periscope_testing.torchvision_operators import declare_torchvision_operators
from runtime.pictures import noise

declare_torchvision_operators()

SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))


CROP, STRETCH, PAD = ResizeStep(crop=Crop()), ResizeStep(stretch=Stretch()), ResizeStep(pad=Pad(None, (9, 8, 7)))
TRIM = ResizeStep(trim=Trim())


def fixed(policy: ImagePolicy, *steps: ResizeStep, side: int = 56) -> ImagePolicy:
    one = replace(policy, resize=steps, side=side, min_pixels=None, max_pixels=None, merge_size=1)
    return replace(one, temporal_patch_size=1)


@given(SIZES)
@settings(deadline=None, max_examples=150)
def test_a_crop_is_torchvisions(policy: ImagePolicy, size: tuple[int, int]) -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    page = noise(*size)
    if max(size) > 200 * min(size):
        with pytest.raises(PreparationError, match="aspect ratio"):
            resize(page, fixed(policy, CROP))
        return
    published = Compose([Resize(56, InterpolationMode.BICUBIC), CenterCrop(56)])
    np.testing.assert_array_equal(np.asarray(resize(page, fixed(policy, CROP))), np.asarray(published(page)))


@given(SIZES)
@settings(deadline=None, max_examples=50)
def test_a_stretched_page_loses_its_aspect_ratio(policy: ImagePolicy, size: tuple[int, int]) -> None:
    page = noise(*size)
    if max(size) > 200 * min(size):
        return
    wanted = page.resize((56, 56), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.asarray(resize(page, fixed(policy, STRETCH))), np.asarray(wanted))


def test_patches_that_nothing_merges_are_in_reading_order(policy: ImagePolicy) -> None:
    page, fit = noise(56, 56), fixed(policy, STRETCH)
    patches = patchify([page], fit)
    assert patches.grids == ((4, 4),)
    assert patches.positions_P2.tolist() == [[row, column] for row in range(4) for column in range(4)]
    pixels = np.asarray(page)
    for patch, (row, column) in zip(patches.patches_PC, patches.positions_P2, strict=True):
        wanted = pixels[14 * row : 14 * row + 14, 14 * column : 14 * column + 14].transpose(2, 0, 1)
        np.testing.assert_array_equal(patch.reshape(3, 14, 14), wanted)


def test_every_page_has_as_many_visual_tokens(policy: ImagePolicy) -> None:
    assert visual_tokens(fixed(policy, CROP)) == Range(16, 16)


@given(SIZES)
@settings(deadline=None, max_examples=50)
def test_a_padded_page_is_pillows(policy: ImagePolicy, size: tuple[int, int]) -> None:
    page = noise(*size)
    if max(size) > 200 * min(size):
        return
    wanted = ImageOps.pad(page, (56, 56), Image.Resampling.BICUBIC, (9, 8, 7))
    np.testing.assert_array_equal(np.asarray(resize(page, fixed(policy, PAD))), np.asarray(wanted))


@given(SIZES)
@settings(deadline=None, max_examples=50)
def test_a_trimmed_page_is_what_a_convolution_sees(policy: ImagePolicy, size: tuple[int, int]) -> None:
    """As jina-clip-v2 has it: 512 pixels, of which patches of 14 leave 8 at the right and at the bottom."""
    page = noise(*size)
    if max(size) > 200 * min(size):
        return
    cut = resize(page, fixed(policy, CROP, TRIM, side=64))
    assert cut.size == (56, 56)
    whole = np.asarray(
        resize(page, replace(fixed(policy, CROP, side=64 // 16 * 14), patch_size=16, side=64)), np.float32
    )
    kernel = torch.arange(3 * 14 * 14, dtype=torch.float32).reshape(1, 3, 14, 14)
    image = torch.from_numpy(whole.copy()).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.conv2d(image, kernel, stride=14).flatten()
    patches = torch.from_numpy(patchify([cut], fixed(policy, CROP, TRIM, side=64)).patches_PC.astype(np.float32))
    torch.testing.assert_close(patches @ kernel.flatten(), wanted)


@given(st.tuples(st.integers(1, 60), st.integers(1, 60)))
@settings(deadline=None, max_examples=50)
def test_small_pages_alone_are_stretched(policy: ImagePolicy, size: tuple[int, int]) -> None:
    """As VLM2Vec-V2 has it."""
    page = noise(*size)
    small = ResizeStep(stretch=Stretch(56, below=28))
    wanted = page.resize((56, 56), Image.Resampling.BICUBIC) if min(size) < 28 else page
    found = resize(page, replace(policy, resize=(small, *policy.resize)))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(resize(wanted, policy)))


@pytest.mark.parametrize(
    ("wrong", "problems"),
    [
        ({"resize": (CROP,)}, ["crop of resize needs side", "reads min_pixels", "reads max_pixels"]),
        ({"resize": (CROP,), "side": 56}, ["reads min_pixels", "reads max_pixels"]),
        ({"side": 56}, ["no step of resize reads side"]),
        ({"min_pixels": None}, ["area of resize needs min_pixels"]),
        ({"resize": (ResizeStep(stretch=Stretch(57)),)}, ["side is 57", "reads min_pixels"]),
        ({"resize": (ResizeStep(area=Area(multiple=14)),)}, ["multiple is 14, .* a multiple of 28, or trim"]),
        ({"resize": (ResizeStep(area=Area(multiple=14)), TRIM)}, ["multiple is 14, .* has to be 28 at least"]),
        ({"resize": (ResizeStep(),)}, ["1 steps that are not exactly one of area, stretch, crop, pad, trim"]),
        ({"resize": (ResizeStep(area=Area(), trim=Trim()),)}, ["not exactly one of"]),
        ({"resize": ()}, ["no step that gives every page its size", "reads min_pixels"]),
        ({"resize": (ResizeStep(area=Area()), ResizeStep(stretch=Stretch(56, 28)))}, ["the last step of resize"]),
        ({"max_aspect_ratio": None}, ["area needs max_aspect_ratio, or clamp_ratio"]),
        ({"max_aspect_ratio": 0.5, "std": (0.0, 1.0, 1.0), "patch_size": 0}, ["max_aspect_ratio is", "std", "patch"]),
        ({"resize": (ResizeStep(area=Area(0, clamp_ratio=0)),)}, ["multiple of area is 0, clamp_ratio of area is 0"]),
        ({"resize": (ResizeStep(pad=Pad(56, (0, 0, 256))),)}, ["colour .* within 0 and 255"]),
    ],
)
def test_every_field_that_does_not_go_with_the_others_is_named(
    policy: ImagePolicy, wrong: dict[str, Any], problems: list[str]
) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        replace(policy, **wrong)
    for problem in problems:
        assert re.search(problem, str(raised.value)), str(raised.value)
