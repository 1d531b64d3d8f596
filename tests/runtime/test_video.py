"""Frames of a video: which are kept, their sizes, and the patches that groups of them make."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from periscope_runtime.errors import PreparationError
from periscope_runtime.patches import patchify
from periscope_runtime.recipe import ImagePolicy, VideoPolicy
from periscope_runtime.resize import resize
from periscope_runtime.video import frame_pixels, resize_frames, sample
from periscope_testing.torchvision_operators import declare_torchvision_operators
from runtime.pictures import noise

declare_torchvision_operators()

# As Qwen3-VL-Embedding has it.
VIDEO = VideoPolicy(
    max_frames=64,
    fps=2.0,
    frame_multiple=64,
    min_pixels=128 * 32 * 32,
    max_pixels=768 * 32 * 32,
    total_pixels=10 * 768 * 32 * 32,
    frame="<{seconds} seconds><|vision_start|><|image_pad|><|vision_end|>",
)
# As VLM2Vec-V2 has it.
AS_PAGES = VideoPolicy(max_frames=8, frame="<|image_pad|>")


@pytest.fixture(scope="module")
def qwen3(policy: ImagePolicy) -> ImagePolicy:
    return replace(policy, patch_size=16)


@given(st.integers(1, 300))
def test_frames_are_thinned_evenly(count: int) -> None:
    kept = [int(frame) for frame in sample([str(index).encode() for index in range(count)], VIDEO)]
    assert len(kept) == min(count, 64)
    assert (kept[0], kept[-1]) == (0, count - 1)
    steps = {later - earlier for earlier, later in pairwise(kept)}
    assert max(steps, default=0) - min(steps, default=0) <= 1


@pytest.mark.parametrize(("frames", "most"), [(1, 786432), (20, 786432), (21, 7864320 / 11), (64, 245760)])
def test_the_more_frames_the_fewer_pixels_each(policy: ImagePolicy, frames: int, most: float) -> None:
    assert frame_pixels(frames, policy, VIDEO) == (131072, most)


def test_a_frame_never_falls_below_its_least(policy: ImagePolicy) -> None:
    video = replace(VIDEO, max_frames=1000)
    assert frame_pixels(1000, policy, video) == (131072, int(131072 * 1.05))


@given(st.integers(8, 500), st.integers(8, 500), st.integers(1, 3))
@settings(deadline=None, max_examples=25)
def test_the_second_resize_is_torchvisions(qwen3: ImagePolicy, width: int, height: int, count: int) -> None:
    """By Pillow to multiples of 64, then as a tensor: near a half, a pixel may be one level off."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import resize

    frames = [noise(width, height, seed) for seed in range(count)]
    found = resize_frames(frames, qwen3, VIDEO)
    rounded = [frame.resize(multiples_of_64(frame.size), Image.Resampling.BICUBIC) for frame in frames]
    tensor = torch.stack([torch.from_numpy(np.array(frame)).permute(2, 0, 1) for frame in rounded])
    size = [found[0].height, found[0].width]
    wanted = resize(tensor, size, InterpolationMode.BICUBIC, antialias=True).permute(0, 2, 3, 1).numpy()
    difference = np.abs(np.stack([np.asarray(frame, np.int16) for frame in found]) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 5e-4


def multiples_of_64(size: tuple[int, int]) -> tuple[int, int]:
    width, height = (max(64, round(length / 64) * 64) for length in size)
    if width * height < 4 * 64**2:
        grow = math.sqrt(4 * 64**2 / (size[0] * size[1]))
        width, height = (math.ceil(length * grow / 64) * 64 for length in size)
    return width, height


@pytest.mark.parametrize("video", [VIDEO, AS_PAGES], ids=["twice", "as pages"])
def test_frames_of_different_sizes_are_refused(qwen3: ImagePolicy, video: VideoPolicy) -> None:
    with pytest.raises(PreparationError, match="different sizes"):
        resize_frames([noise(200, 100), noise(100, 200)], qwen3, video)


def test_frames_may_be_resized_as_pages_are(policy: ImagePolicy) -> None:
    """Each by itself, however many they are."""
    frames = [noise(200, 100, seed) for seed in range(9)]
    found = resize_frames(frames, policy, AS_PAGES)
    for one, frame in zip(found, frames, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(resize(frame, policy)))


def test_two_frames_make_the_patches_of_one_group(policy: ImagePolicy) -> None:
    frames = [noise(56, 28, seed) for seed in range(3)]
    patches = patchify(frames, policy)
    assert patches.grids == ((1, 2), (1, 2))
    first, second = (patchify([frame], policy).patches_PC.reshape(8, 3, 2, 196) for frame in frames[:2])
    group = patches.patches_PC.reshape(2, 8, 3, 2, 196)[0]
    np.testing.assert_array_equal(group[:, :, 0], first[:, :, 0])
    np.testing.assert_array_equal(group[:, :, 1], second[:, :, 0])
    # The third stands alone, so it is repeated: the same as a still image.
    np.testing.assert_array_equal(patches.patches_PC[8:], patchify(frames[2:], policy).patches_PC)
