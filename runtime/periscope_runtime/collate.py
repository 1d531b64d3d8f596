"""Rows to the padded tensors of one request.

B rows, T tokens, J tokens of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from periscope_runtime.image_rows import image_rows
from periscope_runtime.lengths import bucketed
from periscope_runtime.prefixes import Ids, prefix_index
from periscope_runtime.prepare import Row
from periscope_runtime.recipe import Buckets

Tensors = dict[str, npt.NDArray[np.generic]]


def collate(rows: Sequence[Row], buckets: Buckets, kept: Sequence[Ids] | None = None) -> Tensors:
    """Pad rows of one path to their common bucket and stack them.

    `kept` are the prefixes of which the language model keeps keys and values (`Preparer.kept`), None where it has none.
    `prefix_index` int32 [B, J] says which of their tokens come before each row; these are left out of everything below.

    Tokens: `input_ids`, `attention_mask` (1 = a token, 0 = padding), `late_mask` (1 = keep this token's vector),
    `pool_mask` (1 = this token's state belongs to the dense vector, or to the score), int32 [B, T]; `position_ids`
    int32 [B, 3, T]; `token_spans` int32 [B, T, 2].
    Where items may hold images also those of `image_rows`. Pages: `visual_grid` int32 [B, 3]. Where adapters are chosen
    by row: `adapter_index` int32 [B, 1], the place of each among them. Padding is on the right, and zero where nothing
    else is said.
    """
    prefix: Tensors = {}
    if kept is not None:
        index_BJ = prefix["prefix_index"] = prefix_index([row.input_ids_T[: row.first_image] for row in rows], kept)
        rows = [row.without(index_BJ.shape[1]) for row in rows]
    images = [row.patches for row in rows if row.patches is not None]
    tokens = bucketed(max(len(row.input_ids_T) for row in rows), buckets.page_tokens if images else buckets.text_tokens)
    real = [np.ones_like(row.input_ids_T) for row in rows]
    tensors: Tensors = {
        **prefix,
        "input_ids": _stack([row.input_ids_T for row in rows], tokens),
        "position_ids": _stack([row.positions_3T for row in rows], tokens, axis=1),
        "attention_mask": _stack(real, tokens),
        "late_mask": _stack(real, tokens),
        "pool_mask": _stack([row.pooled_T for row in rows], tokens),
        "token_spans": _stack([row.spans_T2 for row in rows], tokens),
    }
    if images:
        tensors.update(image_rows(images, buckets.patches))
    if all(row.visual_grid is not None for row in rows):
        tensors["visual_grid"] = np.array([row.visual_grid for row in rows], dtype=np.int32)
    if all(row.adapter is not None for row in rows):
        tensors["adapter_index"] = np.array([[row.adapter] for row in rows], dtype=np.int32)
    return tensors


def _stack(arrays: Sequence[npt.NDArray[np.generic]], length: int, axis: int = 0) -> npt.NDArray[np.generic]:
    shape = list(arrays[0].shape)
    shape[axis] = length
    stacked = np.zeros((len(arrays), *shape), dtype=arrays[0].dtype)
    for row, array in zip(stacked, arrays, strict=True):
        row[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return stacked
