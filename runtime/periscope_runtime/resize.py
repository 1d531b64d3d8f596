"""Pages to the size that they get, step by step.

Pages are resampled by Pillow on uint8 pixels, as the published image processors do.
"""

from __future__ import annotations

import math

from PIL import Image, ImageOps

from periscope_runtime.errors import PreparationError
from periscope_runtime.recipe import Area, Crop, ImagePolicy, Pad, Stretch, Trim

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


def resize(image: Image.Image, policy: ImagePolicy) -> Image.Image:
    """Return the image at the size that the policy's steps give it.

    Raises `PreparationError` when the aspect ratio is above `policy.max_aspect_ratio`.
    """
    check_aspect_ratio(image.height, image.width, policy)
    for step in policy.resize:
        image = _resized(image, step.kind, policy)
    return image


def _resized(image: Image.Image, step: Area | Stretch | Crop | Pad | Trim, policy: ImagePolicy) -> Image.Image:
    resample = FILTERS[policy.resample]
    if isinstance(step, Area):
        height, width = smart_resize(image.height, image.width, policy, step)
        return image.resize((width, height), resample)
    if isinstance(step, Trim):
        return image.crop(
            (0, 0, image.width - image.width % policy.factor, image.height - image.height % policy.factor)
        )
    side = policy.length(step)
    if isinstance(step, Crop):
        return _centre(image.resize(_shorter_side(image, side), resample), side)
    if isinstance(step, Pad):
        return ImageOps.pad(image, (side, side), resample, step.colour)
    return image.resize((side, side), resample) if step.below is None or min(image.size) < step.below else image


def smart_resize(height: int, width: int, policy: ImagePolicy, step: Area) -> tuple[int, int]:
    """Return (height, width) in pixels after a step that bounds the area; the longer side may be clamped then."""
    multiple = policy.multiple(step)
    height, width = within_area(height, width, multiple, *policy.pixels(step), step.min_side * multiple)
    if step.clamp_ratio is not None:
        height, width = min(height, width * step.clamp_ratio), min(width, height * step.clamp_ratio)
    return height, width


def within_area(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: float, min_side: int = 0
) -> tuple[int, int]:
    """Return (height, width) in pixels, multiples of `factor` with about the same aspect ratio and a bounded area.

    Halves round to even, as Python's `round` does in the published code. Before the area is looked at, both are
    `min_side` at least. Source: transformers `image_processing_qwen2_vl.smart_resize`; qwen-vl-utils for `min_side`.
    """
    rounded_height = max(min_side, round(height / factor) * factor)
    rounded_width = max(min_side, round(width / factor) * factor)
    if rounded_height * rounded_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rounded_height = max(factor, math.floor(height / shrink / factor) * factor)
        rounded_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif rounded_height * rounded_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rounded_height = math.ceil(height * grow / factor) * factor
        rounded_width = math.ceil(width * grow / factor) * factor
    return rounded_height, rounded_width


def check_aspect_ratio(height: int, width: int, policy: ImagePolicy) -> None:
    """Raise `PreparationError` when the aspect ratio is above `policy.max_aspect_ratio`."""
    ratio = max(height, width) / min(height, width)
    if policy.max_aspect_ratio is not None and ratio > policy.max_aspect_ratio:
        raise PreparationError(
            f"has {width} x {height} pixels, an aspect ratio of {ratio:.4g}, above the limit of "
            f"{policy.max_aspect_ratio:g}",
            "Crop it, or cut it into several pages",
        )


def _shorter_side(image: Image.Image, side: int) -> tuple[int, int]:
    """Return (width, height) with the shorter one at `side`, the other cut to whole pixels. Source: torchvision."""
    shorter, longer = sorted(image.size)
    length = int(side * longer / shorter)
    return (side, length) if image.width <= image.height else (length, side)


def _centre(image: Image.Image, side: int) -> Image.Image:
    """Return `side` x `side` pixels of the centre; half pixels round to even. Source: torchvision `CenterCrop`."""
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))
