"""Images of items to padded rows of patches: what the vision tower reads.

B items, G rows of patches of an item, P patches of a row, C bytes a patch, V visual tokens of an item, M of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from periscope_runtime.lengths import bucketed, window_slots
from periscope_runtime.patches import Patches


class Place(NamedTuple):
    """The place of an image: the row of its item, its first patch there, and how many images stand before it."""

    row: int
    begin: int
    segment: int


def placed(lengths: Sequence[int], row_length: int) -> list[Place]:
    """Return the places of images of so many patches each, in order; none is longer than a row.

    A row takes an image as long as there is room: two neighbouring rows are more than one row full, so that padding
    costs no more than the patches themselves, whatever the sizes are.
    """
    places: list[Place] = []
    row, begin, segment = 0, 0, 0
    for length in lengths:
        if begin + length > row_length:
            row, begin, segment = row + 1, 0, 0
        places.append(Place(row, begin, segment))
        begin, segment = begin + length, segment + 1
    return places


def window_places(rows: int, columns: int, window: int) -> npt.NDArray[np.int64]:
    """Return int64 [M]: where each visual token of a grid stands, window by window of `window` x `window` places.

    Windows at the right and lower edges are shorter: their tokens come first, in order, and places are left behind.
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    across = -(-columns // window)
    width = np.minimum(window, columns - column // window * window)
    inside = row % window * width + column % window
    places_M: npt.NDArray[np.int64] = (row // window * across + column // window) * window**2 + inside
    return places_M


def image_rows(items: Sequence[Patches], bucket: int) -> dict[str, npt.NDArray[np.generic]]:
    """Stack the images of items; each row of patches is as long as the bucket of the largest image.

    Attention costs the square of a row, and images never see each other: they have rows of their own, unless small ones
    share the row that a larger one needs. `patches` uint8 [B, G, P, C]; int32 `patch_positions` [B, G, P, 2] (row and
    column in its image), `patch_grids` [B, G, P, 2] (rows and columns of its image, in patches; 1, 1 for padding),
    `patch_segments` [B, G, P] (which image of its row; -1 = padding), `visual_index` [B, V] (where in the G * P visual
    places of an item its tokens are, in order). Items without an image still fill a bucket: engines take no tensor of
    length zero.

    Where the tower attends within windows, patches stand window by window, and padding fills those that are shorter.
    """
    merged, window = items[0].merge ** 2, items[0].window
    lengths = [[merged * window_slots(*grid, window) for grid in item.grids] for item in items]
    row_length = bucketed(max([1, *(length for item in lengths for length in item)]), bucket)
    places = [placed(item, row_length) for item in lengths]
    shape = (len(items), max([1, *(place.row + 1 for item in places for place in item)]), row_length)
    tokens = bucketed(max([1, *(merged * sum(item.visual_tokens) for item in items)]), bucket) // merged

    patches = np.zeros((*shape, items[0].patches_PC.shape[1]), np.uint8)
    positions = np.zeros((*shape, 2), np.int32)
    grids = np.ones((*shape, 2), np.int32)
    segments = np.full(shape, -1, np.int32)
    index = np.zeros((len(items), tokens), np.int32)
    for number, item in enumerate(items):
        first = 0
        for place, grid, shape_of in zip(places[number], item.grids, item.patch_grids, strict=True):
            standing_M = window_places(*grid, window)
            last = first + merged * len(standing_M)
            standing_P = (standing_M[:, None] * merged + np.arange(merged)).reshape(-1) + place.begin
            there = (number, place.row, standing_P)
            patches[there] = item.patches_PC[first:last]
            positions[there] = item.positions_P2[first:last]
            grids[there] = shape_of
            segments[there] = place.segment
            index[number, first // merged : last // merged] = (
                standing_M + (place.row * row_length + place.begin) // merged
            )
            first = last
    return {
        "patches": patches,
        "patch_positions": positions,
        "patch_grids": grids,
        "patch_segments": segments,
        "visual_index": index,
    }
