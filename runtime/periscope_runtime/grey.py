"""Grey values of more than 8 bits, in 8: what a page shows stays on it.

H rows and W columns of pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

# Depths of scanners and cameras; a file holds all but the first in 16 bits.
DEPTHS = (8, 10, 12, 14, 16)
# Rows that are scaled at once, so that the numbers between need no memory to speak of.
ROWS = 64


class Scale(NamedTuple):
    """The values that become 0 and 255; those between lie on a line."""

    black: float
    white: float


def is_deep(image: Image.Image) -> bool:
    """Whether a pixel is one number of 16 or 32 bits, or in floating point."""
    return image.mode.startswith(("I", "F"))


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Return a deep image in mode L, its transparent value white.

    Values from 0 to 255 stay what they are, without their fractions, unless they are floating point between 0 and 1:
    these are scaled by 255. Whole numbers of up to 16 bits are scaled by the smallest of `DEPTHS` that holds them, and
    everything else so that the lowest value is 0 and the highest 255. What is not a number is 0.

    Raises `ValueError` where nothing is a number.
    """
    values_HW = np.asarray(image)
    scale = _scale(values_HW)
    grey_HW = np.empty(values_HW.shape, np.uint8)
    for top in range(0, len(values_HW), ROWS):
        grey_HW[top : top + ROWS] = _scaled(values_HW[top : top + ROWS], scale)
    if isinstance(transparent := image.info.get("transparency"), int):
        grey_HW[values_HW == transparent] = 255
    return Image.fromarray(grey_HW)


def _scale(values_HW: npt.NDArray[Any]) -> Scale | None:
    """Return None for values from 0 to 255 that stay as they are."""
    whole = values_HW.dtype.kind in "iu"
    numbers = values_HW if whole else values_HW[np.isfinite(values_HW)]
    if not numbers.size:
        raise ValueError("no pixel has a value that is a number")
    low, high = float(numbers.min()), float(numbers.max())
    if not whole and low >= 0 and high <= 1:
        return Scale(0, 1)
    if low >= 0 and high <= 255:
        return None
    if whole and low >= 0 and high < 2 ** DEPTHS[-1]:
        return Scale(0, next(2**depth - 1 for depth in DEPTHS if high < 2**depth))
    # A page of one value is blank, as paper is.
    return Scale(low, high) if high > low else Scale(low - 1, high)


def _scaled(values_RW: npt.NDArray[Any], scale: Scale | None) -> npt.NDArray[np.float64]:
    numbers_RW = np.nan_to_num(values_RW.astype(np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    if scale is None:
        numbers_RW = np.trunc(numbers_RW)
    else:
        numbers_RW = np.rint((numbers_RW - scale.black) * (255 / (scale.white - scale.black)))
    return np.clip(numbers_RW, 0, 255)
