"""RGB images to patches, in the order in which the vision tower merges them.

P patches, C bytes a patch (channel, frame, row, column), HW patches down and across.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from periscope_runtime.recipe import ImagePolicy


class Patches(NamedTuple):
    """The part of an item that the vision tower reads.

    `patches_PC` uint8; `positions_P2` int32, the (row, column) of each patch in its image; `grids` (rows, columns) of
    visual tokens of each image, in order, each of `merge` x `merge` patches. A video has an image for each group of
    frames; a text has none at all. `window` visual tokens along a side are read together, 1 where there are no windows.
    """

    patches_PC: npt.NDArray[np.uint8]
    positions_P2: npt.NDArray[np.int32]
    grids: tuple[tuple[int, int], ...]
    merge: int
    window: int = 1

    @property
    def patch_grids(self) -> list[tuple[int, int]]:
        """Rows and columns of patches of each image."""
        return [(rows * self.merge, columns * self.merge) for rows, columns in self.grids]

    @property
    def visual_tokens(self) -> list[int]:
        """The number of visual tokens that each image makes."""
        return [rows * columns for rows, columns in self.grids]


def patchify(images: Sequence[Image.Image], policy: ImagePolicy) -> Patches:
    """Cut frames of one size, whose sides are multiples of `policy.factor`, into patches; pixels stay uint8.

    One image stands still and fills all `policy.temporal_patch_size` frames of its patches; otherwise each group of so
    many frames makes patches of its own, the last frame repeated where there are too few. The patches that merge into
    one visual token are adjacent: rows of tokens, columns of tokens, then the rows and columns inside a token.
    Source: transformers `image_processing_pil_qwen2_vl.patchify`.
    """
    patch, merge, temporal = policy.patch_size, policy.merge_size, policy.temporal_patch_size
    rows, columns = images[0].height // policy.factor, images[0].width // policy.factor
    # A still image is read once, and written as often as there are frames.
    frames = images if len(images) == 1 else [*images, *[images[-1]] * (-len(images) % temporal)]
    groups = -(-len(frames) // temporal)
    planes = np.stack([np.asarray(band) for frame in frames for band in frame.split()])
    # Row by row of a patch, not byte by byte: the rows of one colour lie together, and numpy moves each as one item.
    row = np.dtype((np.void, patch))
    blocks = planes.view(row).reshape(groups, -1, 3, rows, merge, patch, columns, merge)
    cut = np.empty((groups, rows, columns, merge, merge, 3, temporal, patch), row)
    cut[...] = blocks.transpose(0, 3, 6, 4, 7, 2, 1, 5)
    patches_PC = cut.view(np.uint8).reshape(-1, policy.patch_dim)
    positions_P2 = np.tile(patch_positions(rows, columns, merge), (groups, 1))
    return Patches(patches_PC, positions_P2, ((rows, columns),) * groups, merge, policy.window)


def joined(parts: Sequence[Patches], policy: ImagePolicy) -> Patches:
    """Return the patches of several images of one item, in order; of none, zero patches."""
    none = Patches(
        np.zeros((0, policy.patch_dim), np.uint8), np.zeros((0, 2), np.int32), (), policy.merge_size, policy.window
    )
    if len(parts) == 1:
        return parts[0]
    return Patches(
        np.concatenate([none.patches_PC, *(part.patches_PC for part in parts)]),
        np.concatenate([none.positions_P2, *(part.positions_P2 for part in parts)]),
        tuple(grid for part in parts for grid in part.grids),
        policy.merge_size,
        policy.window,
    )


def patch_positions(rows: int, columns: int, merge: int) -> npt.NDArray[np.int32]:
    """Return int32 [P, 2]: row and column of every patch of a grid of `rows` x `columns` visual tokens."""
    grid_2HW = np.indices((rows * merge, columns * merge), dtype=np.int32)
    blocks = grid_2HW.reshape(2, rows, merge, columns, merge).transpose(1, 3, 2, 4, 0)
    return np.ascontiguousarray(blocks.reshape(-1, 2))
