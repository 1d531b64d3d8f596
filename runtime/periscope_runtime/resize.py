"""Smart resize: the size that keeps the aspect ratio, whole visual tokens and a bounded area."""

from __future__ import annotations

import math

from PIL import Image

from periscope_runtime.errors import PreparationError
from periscope_runtime.recipe import ImagePolicy

_FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


def smart_resize(height: int, width: int, policy: ImagePolicy) -> tuple[int, int]:
    """Return (height, width) in pixels after the resize rule of Qwen2-VL.

    Both are multiples of `policy.factor`; halves round to even, as Python's `round` does in the published code.
    Raises `PreparationError` when the aspect ratio is above `policy.max_aspect_ratio`.
    Source: transformers `image_processing_qwen2_vl.smart_resize`.
    """
    ratio = max(height, width) / min(height, width)
    if ratio > policy.max_aspect_ratio:
        raise PreparationError(
            f"has {width} x {height} pixels, an aspect ratio of {ratio:.4g}, above the limit of "
            f"{policy.max_aspect_ratio:g}",
            "Crop it, or cut it into several pages",
        )
    factor = policy.factor
    rounded_height = round(height / factor) * factor
    rounded_width = round(width / factor) * factor
    if rounded_height * rounded_width > policy.max_pixels:
        shrink = math.sqrt(height * width / policy.max_pixels)
        rounded_height = max(factor, math.floor(height / shrink / factor) * factor)
        rounded_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif rounded_height * rounded_width < policy.min_pixels:
        grow = math.sqrt(policy.min_pixels / (height * width))
        rounded_height = math.ceil(height * grow / factor) * factor
        rounded_width = math.ceil(width * grow / factor) * factor
    return rounded_height, rounded_width


def resize(image: Image.Image, policy: ImagePolicy) -> Image.Image:
    """Return the image at its smart size, resampled by Pillow on uint8 pixels."""
    height, width = smart_resize(image.height, image.width, policy)
    return image.resize((width, height), _FILTERS[policy.resample])
