"""Tensors that no item holds and graphs read all the same, added to those of a request.

B rows, D dimensions of a dense vector, H width of a hidden state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from periscope_runtime.collate import Tensors


class Wanted(NamedTuple):
    """An input of a graph: its dtype, and the length of its last axis, None where this varies."""

    dtype: npt.DTypeLike
    width: int | None = None


def completed(tensors: Tensors, wanted: Mapping[str, Wanted], dimensions: int) -> Tensors:
    """Return collated tensors, and what else of `wanted`, inputs by name, is there without an item that holds it.

    `dense_columns` int32 [B, D]: which columns of a dense vector are kept, the first `dimensions`.
    `visual_tokens` [B, 0, H], in the dtype of the graph: those of rows that hold no patches to make them of.
    """
    rows, added = len(tensors["input_ids"]), Tensors()
    if "dense_columns" in wanted:
        added["dense_columns"] = np.tile(np.arange(dimensions, dtype=np.int32), (rows, 1))
    if "visual_tokens" in wanted and "patches" not in tensors:
        dtype, width = wanted["visual_tokens"]
        assert width is not None
        added["visual_tokens"] = np.zeros((rows, 0, width), dtype)
    return {**tensors, **added}
