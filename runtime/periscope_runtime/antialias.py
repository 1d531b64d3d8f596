"""Antialiased bicubic resampling as torchvision does it with tensors: in float32, its weights too.

Pillow's weights are more exact, and with them one pixel of a thousand would be rounded to another byte.
C channels, H, W rows and columns before, X, Y rows and columns after.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_FLOAT = np.float32
# Rows that are made in one matrix product: few, so that it reads hardly more rows than these need.
_ROWS = 64


class _Block(NamedTuple):
    """Some rows after, the rows before that they are made of, and float32 [after, before]: how much each counts."""

    after: slice
    before: slice
    weights: npt.NDArray[np.float32]


def bicubic(pixels_HWC: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return the pixels [X, Y, C] at another size, rounded once, at the end.

    Source: torch `upsample_bicubic2d_aa` on the CPU, which `torchvision.transforms.functional.resize` calls.
    """
    rows, columns, channels = pixels_HWC.shape
    # In this order in memory too: matrix products of other strides are a hundred times slower.
    pixels_CHW = pixels_HWC.transpose(2, 0, 1).astype(_FLOAT, order="C")
    narrowed_CHY = np.empty((channels, rows, width), _FLOAT)
    for block in _blocks(columns, width):
        narrowed_CHY[:, :, block.after] = pixels_CHW[:, :, block.before] @ block.weights.T
    resampled_CXY = np.empty((channels, height, width), _FLOAT)
    for block in _blocks(rows, height):
        resampled_CXY[:, block.after] = block.weights @ narrowed_CHY[:, block.before]
    return np.ascontiguousarray(np.rint(resampled_CXY).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


@lru_cache(maxsize=64)
def _blocks(before: int, after: int) -> list[_Block]:
    """Return how so many rows become so many others."""
    scale = _FLOAT(before) / _FLOAT(after)
    stretch = max(scale, _FLOAT(1))
    centre = scale * (np.arange(after, dtype=_FLOAT) + _FLOAT(0.5))
    first = np.maximum((centre - 2 * stretch + _FLOAT(0.5)).astype(np.int64), 0)
    last = np.minimum((centre + 2 * stretch + _FLOAT(0.5)).astype(np.int64), before)
    blocks = []
    for start in range(0, after, _ROWS):
        rows = range(start, min(start + _ROWS, after))
        begin, end = int(first[rows[0]]), int(last[rows[-1]])
        weights = np.zeros((len(rows), end - begin), _FLOAT)
        for row, weights_row in zip(rows, weights, strict=True):
            places = np.arange(first[row], last[row])
            kernel = _cubic(np.abs((places.astype(_FLOAT) - centre[row] + _FLOAT(0.5)) * (_FLOAT(1) / stretch)))
            weights_row[places - begin] = kernel / kernel.sum(dtype=_FLOAT)
        blocks.append(_Block(slice(start, rows[-1] + 1), slice(begin, end), weights))
    return blocks


def _cubic(distance: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the cubic convolution kernel with a = -0.5."""
    a = _FLOAT(-0.5)
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance < 1, near, np.where(distance < 2, far, _FLOAT(0))).astype(_FLOAT)
