"""Rows to the padded tensors of one request.

B rows, P patches, C bytes a patch, T tokens, D dimensions of a dense vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from periscope_runtime.lengths import bucketed
from periscope_runtime.prepare import Row
from periscope_runtime.recipe import Buckets

Tensors = dict[str, npt.NDArray[np.generic]]


def collate(rows: Sequence[Row], buckets: Buckets) -> Tensors:
    """Pad rows of one path to their common bucket and stack them.

    Tokens: `input_ids`, `attention_mask` (1 = a token, 0 = padding), `late_mask` (1 = keep this token's vector),
    `pool_mask` (1 = this token's state belongs to the dense vector, or to the score), int32 [B, T]; `position_ids`
    int32 [B, 3, T]; `token_spans` int32 [B, T, 2].
    Where items may hold images: `patches` uint8 [B, P, C], `patch_positions` int32 [B, P, 2] (row and column in its
    image), `patch_grids` int32 [B, P, 2] (rows and columns of its image, in patches; 1, 1 for padding),
    `patch_segments` int32 [B, P] (which image, or group of frames, a patch belongs to; -1 = padding). Pages:
    `visual_grid` int32 [B, 3]. Padding is on the right, and zero where nothing else is said.
    """
    images = [row.patches for row in rows if row.patches is not None]
    tokens = bucketed(max(len(row.input_ids_T) for row in rows), buckets.page_tokens if images else buckets.text_tokens)
    real = [np.ones_like(row.input_ids_T) for row in rows]
    tensors: Tensors = {
        "input_ids": _stack([row.input_ids_T for row in rows], tokens),
        "position_ids": _stack([row.positions_3T for row in rows], tokens, axis=1),
        "attention_mask": _stack(real, tokens),
        "late_mask": _stack(real, tokens),
        "pool_mask": _stack([row.pooled_T for row in rows], tokens),
        "token_spans": _stack([row.spans_T2 for row in rows], tokens),
    }
    if images:
        # Items without an image still fill a bucket: engines take no tensor of length zero.
        length = bucketed(max(1, *(len(image.patches_PC) for image in images)), buckets.patches)
        segments = [image.per_image(np.arange(len(image.grids))) for image in images]
        grids = [image.per_image(np.reshape(image.patch_grids, (-1, 2))) for image in images]
        tensors["patches"] = _stack([image.patches_PC for image in images], length)
        tensors["patch_positions"] = _stack([image.positions_P2 for image in images], length)
        tensors["patch_grids"] = _stack(grids, length, fill=1)
        tensors["patch_segments"] = _stack(segments, length, fill=-1)
    if all(row.visual_grid is not None for row in rows):
        tensors["visual_grid"] = np.array([row.visual_grid for row in rows], dtype=np.int32)
    return tensors


def dense_columns(rows: int, dimensions: int) -> npt.NDArray[np.int32]:
    """Return int32 [B, D]: which columns of a dense vector are kept, the first ones."""
    return np.tile(np.arange(dimensions, dtype=np.int32), (rows, 1))


def no_visual_tokens(rows: int, width: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[np.generic]:
    """Return [B, 0, H] of the graphs' precision: what the language model takes beside texts."""
    return np.zeros((rows, 0, width), dtype)


def _stack(
    arrays: Sequence[npt.NDArray[np.generic]], length: int, axis: int = 0, fill: int = 0
) -> npt.NDArray[np.generic]:
    shape = list(arrays[0].shape)
    shape[axis] = length
    stacked = np.full((len(arrays), *shape), fill, dtype=arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return stacked
