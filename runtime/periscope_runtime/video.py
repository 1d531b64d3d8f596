"""Frames of a video to frames of one size.

X frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from periscope_runtime.antialias import bicubic
from periscope_runtime.errors import PreparationError
from periscope_runtime.recipe import ImagePolicy, VideoPolicy
from periscope_runtime.resize import FILTERS, check_aspect_ratio, resize, within_area

# The published code brings frames to `frame_multiple` like pages of a larger patch: 4 to 16384 of its tokens.
_FRAME_TOKENS = (4, 16384)


def sample(frames: Sequence[bytes], video: VideoPolicy) -> list[bytes]:
    """Return at most `video.max_frames` of the frames, evenly spread, the first and the last among them."""
    if len(frames) <= video.max_frames:
        return list(frames)
    return [frames[index] for index in np.linspace(0, len(frames) - 1, video.max_frames, dtype=int)]


def resize_frames(frames: Sequence[Image.Image], policy: ImagePolicy, video: VideoPolicy) -> list[Image.Image]:
    """Return the frames at their common size: that of pages, or the one that their number allows.

    Raises `PreparationError` for frames of different sizes or with too large an aspect ratio.
    """
    if video.frame_multiple is None:
        # As the processor of Qwen2-VL does, which knows no other limits for frames.
        return _of_one_size([resize(frame, policy) for frame in frames])
    return _resized_twice(frames, video.frame_multiple, policy, video)


def _resized_twice(
    frames: Sequence[Image.Image], multiple: int, policy: ImagePolicy, video: VideoPolicy
) -> list[Image.Image]:
    """Return the frames twice resized, as the released code of Qwen3-VL does.

    Each by Pillow to multiples of `multiple` pixels, then all to the size that their number allows, bicubic as
    torchvision does with tensors. Source: qwen-vl-utils 0.0.14 `fetch_video`.
    """
    least, most = (tokens * multiple**2 for tokens in _FRAME_TOKENS)
    rounded = []
    for frame in frames:
        check_aspect_ratio(frame.height, frame.width, policy)
        height, width = within_area(frame.height, frame.width, multiple, least, most, multiple)
        rounded.append(frame.resize((width, height), FILTERS[policy.resample]))
    (width, height) = _of_one_size(rounded)[0].size
    limits = frame_pixels(len(frames), policy, video)
    size = within_area(height, width, policy.factor, *limits, policy.factor)
    if size == (height, width):
        return rounded
    return [Image.fromarray(bicubic(np.asarray(frame), *size)) for frame in rounded]


def _of_one_size(frames: list[Image.Image]) -> list[Image.Image]:
    if len({frame.size for frame in frames}) > 1:
        raise PreparationError("has frames of different sizes", "Send frames of one video, all of one size")
    return frames


def frame_pixels(frames: int, policy: ImagePolicy, video: VideoPolicy) -> tuple[int, float]:
    """Return between which areas each of so many frames is resized; the more frames, the smaller."""
    # __post_init__ sees to it, where frames are not resized as pages are.
    assert video.min_pixels is not None
    assert video.max_pixels is not None
    assert video.total_pixels is not None
    share = video.total_pixels / -(-frames // policy.temporal_patch_size)
    return video.min_pixels, max(min(video.max_pixels, share), int(video.min_pixels * 1.05))
