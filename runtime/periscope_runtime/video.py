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
from periscope_runtime.resize import FILTERS, check_aspect_ratio, within_area

# The published code brings frames to `frame_multiple` like pages of a larger patch: 4 to 16384 of its tokens.
_FRAME_TOKENS = (4, 16384)


def sample(frames: Sequence[bytes], video: VideoPolicy) -> list[bytes]:
    """Return at most `video.max_frames` of the frames, evenly spread, the first and the last among them."""
    if len(frames) <= video.max_frames:
        return list(frames)
    return [frames[index] for index in np.linspace(0, len(frames) - 1, video.max_frames, dtype=int)]


def resize_frames(frames: Sequence[Image.Image], policy: ImagePolicy, video: VideoPolicy) -> list[Image.Image]:
    """Return the frames at their common size.

    Twice resized, as the released code does: each by Pillow to multiples of `video.frame_multiple`, then all to the
    size that their number allows, bicubic as torchvision does with tensors.
    Raises `PreparationError` for frames of different sizes or with too large an aspect ratio.
    Source: qwen-vl-utils 0.0.14 `fetch_video`.
    """
    multiple, resample = video.frame_multiple, FILTERS[policy.resample]
    least, most = (tokens * multiple**2 for tokens in _FRAME_TOKENS)
    rounded = []
    for frame in frames:
        check_aspect_ratio(frame.height, frame.width, policy)
        height, width = within_area(frame.height, frame.width, multiple, least, most, multiple)
        rounded.append(frame.resize((width, height), resample))
    sizes = {frame.size for frame in rounded}
    if len(sizes) > 1:
        raise PreparationError("has frames of different sizes", "Send frames of one video, all of one size")
    (width, height) = sizes.pop()
    limits = frame_pixels(len(frames), policy, video)
    size = within_area(height, width, policy.factor, *limits, policy.factor)
    if size == (height, width):
        return rounded
    return [Image.fromarray(bicubic(np.asarray(frame), *size)) for frame in rounded]


def frame_pixels(frames: int, policy: ImagePolicy, video: VideoPolicy) -> tuple[int, float]:
    """Return between which areas each of so many frames is resized; the more frames, the smaller."""
    groups = -(-frames // policy.temporal_patch_size)
    share = video.total_pixels / groups
    return video.min_pixels, max(min(video.max_pixels, share), int(video.min_pixels * 1.05))
