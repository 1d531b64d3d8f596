"""Antialiased bicubic resampling as torchvision does it with tensors: in float32, its weights too.

Pillow's weights are more exact, and with them one pixel of a thousand would be rounded to another byte.
H, W rows and columns before, X, Y rows and columns after.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_FLOAT = np.float32


def bicubic(pixels_HWC: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return the pixels [X, Y, C] at another size, rounded once, at the end.

    Source: torch `upsample_bicubic2d_aa` on the CPU, which `torchvision.transforms.functional.resize` calls.
    """
    rows_XH, columns_YW = _weights(pixels_HWC.shape[0], height), _weights(pixels_HWC.shape[1], width)
    channels_CHW = pixels_HWC.transpose(2, 0, 1).astype(_FLOAT)
    resampled_CXY = rows_XH @ (channels_CHW @ columns_YW.T)
    return np.ascontiguousarray(np.rint(resampled_CXY).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


@lru_cache(maxsize=64)
def _weights(before: int, after: int) -> npt.NDArray[np.float32]:
    """Return float32 [after, before]: how much each old row counts in each new one."""
    scale = _FLOAT(before) / _FLOAT(after)
    stretch = max(scale, _FLOAT(1))
    centre = scale * (np.arange(after, dtype=_FLOAT) + _FLOAT(0.5))
    first = np.maximum((centre - 2 * stretch + _FLOAT(0.5)).astype(np.int64), 0)
    last = np.minimum((centre + 2 * stretch + _FLOAT(0.5)).astype(np.int64), before)
    weights = np.zeros((after, before), _FLOAT)
    for row, (begin, end) in enumerate(zip(first, last, strict=True)):
        distance = (np.arange(begin, end).astype(_FLOAT) - centre[row] + _FLOAT(0.5)) * (_FLOAT(1) / stretch)
        kernel = _cubic(np.abs(distance))
        weights[row, begin:end] = kernel / kernel.sum(dtype=_FLOAT)
    return weights


def _cubic(distance: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the cubic convolution kernel with a = -0.5."""
    a = _FLOAT(-0.5)
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance < 1, near, np.where(distance < 2, far, _FLOAT(0))).astype(_FLOAT)
