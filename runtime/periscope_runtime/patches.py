"""An RGB image to patches, in the order in which the vision tower merges them.

P patches, C bytes a patch (channel, frame, row, column), G patches along a side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from periscope_runtime.recipe import ImagePolicy


class Patches(NamedTuple):
    """A page as the vision tower reads it.

    `patches_PC` uint8; `positions_P2` int32, the (row, column) of each patch; `grid` (rows, columns) of visual tokens.
    """

    patches_PC: npt.NDArray[np.uint8]
    positions_P2: npt.NDArray[np.int32]
    grid: tuple[int, int]


def patchify(image: Image.Image, policy: ImagePolicy) -> Patches:
    """Cut an image whose sides are multiples of `policy.factor` into patches; pixels stay uint8.

    The patches that merge into one visual token are adjacent: rows of tokens, columns of tokens, then the rows and
    columns inside a token. Source: transformers `image_processing_pil_qwen2_vl.patchify`.
    """
    patch, merge = policy.patch_size, policy.merge_size
    rows, columns = image.height // policy.factor, image.width // policy.factor
    pixels_HWC = np.asarray(image)
    blocks = pixels_HWC.reshape(rows, merge, patch, columns, merge, patch, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    frames = np.broadcast_to(blocks[:, :, :, :, :, None], (*blocks.shape[:5], policy.temporal_patch_size, patch, patch))
    patches_PC = frames.reshape(rows * columns * merge**2, policy.patch_dim)
    return Patches(patches_PC, patch_positions(rows, columns, merge), (rows, columns))


def patch_positions(rows: int, columns: int, merge: int) -> npt.NDArray[np.int32]:
    """Return int32 [P, 2]: row and column of every patch of a grid of `rows` x `columns` visual tokens."""
    grid_2GG = np.indices((rows * merge, columns * merge), dtype=np.int32)
    blocks = grid_2GG.reshape(2, rows, merge, columns, merge).transpose(1, 3, 2, 4, 0)
    return np.ascontiguousarray(blocks.reshape(-1, 2))
