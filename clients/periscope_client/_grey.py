"""Grey values of more than 8 bits, in 8, for drawing upon.

What is sent keeps its values: the server makes 8 bits of them, by a rule of its own.
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def is_deep(image: Image.Image) -> bool:
    """Whether a pixel is one number of 16 or 32 bits, or in floating point."""
    return image.mode.startswith(("I", "F"))


def for_drawing(image: Image.Image) -> Image.Image:
    """A deep image in mode L, its lowest value black and its highest white."""
    values_HW = np.nan_to_num(np.asarray(image, np.float64))
    low, high = values_HW.min(), values_HW.max()
    return Image.fromarray(np.interp(values_HW, (low, high), (0 if high > low else 255, 255)).round().astype(np.uint8))
