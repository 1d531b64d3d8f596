"""Position ids of a prompt: three rows (time, height, width), as M-RoPE wants them.

T tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sequential_positions(length: int) -> npt.NDArray[np.int32]:
    """Return int32 [3, T]: 0, 1, 2, ... on every axis."""
    return np.broadcast_to(np.arange(length, dtype=np.int32), (3, length))


def mrope_positions(
    input_ids_T: npt.NDArray[np.int32], image_token_id: int, grids: list[tuple[int, int]]
) -> npt.NDArray[np.int32]:
    """Return int32 [3, T] for a prompt whose images have `grids` (rows, columns) of visual tokens, in order.

    Text advances all three axes together. An image that starts at p has time p, height p + row, width p + column, and
    the text after it goes on at p + max(rows, columns). Source: Qwen2-VL, arXiv 2409.12191 section 2.1.
    """
    pieces: list[npt.NDArray[np.int32]] = []
    start, token = 0, 0
    for rows, columns in grids:
        first = token + int(np.argmax(input_ids_T[token:] == image_token_id))
        pieces.append(sequential_positions(first - token) + start)
        start += first - token
        pieces.append(np.indices((1, rows, columns), dtype=np.int32).reshape(3, -1) + start)
        start += max(rows, columns)
        token = first + rows * columns
    pieces.append(sequential_positions(len(input_ids_T) - token) + start)
    return np.concatenate(pieces, axis=1)
