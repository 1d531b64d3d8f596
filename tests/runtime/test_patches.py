"""The cutting of a page: against loops that say where every byte comes from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from periscope_runtime.patches import patch_positions, patchify
from periscope_runtime.recipe import ImagePolicy
from runtime.pictures import Pixels, noise

COUNTS = st.integers(1, 5)
SHAPES = st.sampled_from([(14, 2, 2), (4, 2, 2), (3, 1, 2), (2, 3, 1), (2, 2, 3)])


def with_shape(policy: ImagePolicy, shape: tuple[int, int, int]) -> ImagePolicy:
    patch, frames, merge = shape
    return replace(policy, patch_size=patch, temporal_patch_size=frames, merge_size=merge)


def places(rows: int, columns: int, merge: int) -> list[tuple[int, int]]:
    """Row and column of every patch: token by token in reading order, and inside a token in reading order."""
    return [
        (token_row * merge + row, token_column * merge + column)
        for token_row in range(rows)
        for token_column in range(columns)
        for row in range(merge)
        for column in range(merge)
    ]


def slow_patch(pixels: Pixels, row: int, column: int, policy: ImagePolicy) -> list[int]:
    """The bytes of one patch: a channel after the other, in each the same frame again and again, in reading order."""
    size = policy.patch_size
    return [
        int(pixels[row * size + y, column * size + x, channel])
        for channel in range(3)
        for _frame in range(policy.temporal_patch_size)
        for y in range(size)
        for x in range(size)
    ]


@given(COUNTS, COUNTS, SHAPES)
@settings(deadline=None, max_examples=40)
def test_every_byte_of_every_patch_is_the_pixel_that_a_loop_finds(
    policy: ImagePolicy, rows: int, columns: int, shape: tuple[int, int, int]
) -> None:
    policy = with_shape(policy, shape)
    page = noise(columns * policy.factor, rows * policy.factor)

    patches = patchify([page], policy)

    pixels = np.asarray(page)
    expected = [slow_patch(pixels, row, column, policy) for row, column in places(rows, columns, policy.merge_size)]
    np.testing.assert_array_equal(patches.patches_PC, expected)
    assert patches.patches_PC.dtype == np.uint8
    assert patches.patches_PC.shape == (rows * columns * policy.merge_size**2, policy.patch_dim)
    assert patches.grids == ((rows, columns),)


@given(COUNTS, COUNTS, st.integers(1, 4))
@settings(deadline=None, max_examples=100)
def test_every_patch_carries_its_row_and_column(rows: int, columns: int, merge: int) -> None:
    positions = patch_positions(rows, columns, merge)

    assert [(int(row), int(column)) for row, column in positions] == places(rows, columns, merge)
    assert positions.dtype == np.int32


@given(COUNTS, COUNTS, SHAPES)
@settings(deadline=None, max_examples=40)
def test_the_page_can_be_put_together_again_from_patches_and_positions(
    policy: ImagePolicy, rows: int, columns: int, shape: tuple[int, int, int]
) -> None:
    policy = with_shape(policy, shape)
    page, size = noise(columns * policy.factor, rows * policy.factor), policy.patch_size

    patches = patchify([page], policy)

    again = np.zeros((page.height, page.width, 3), np.uint8)
    for patch, (row, column) in zip(patches.patches_PC, patches.positions_P2, strict=True):
        first_frame = patch.reshape(3, policy.temporal_patch_size, size, size)[:, 0].transpose(1, 2, 0)
        again[row * size : (row + 1) * size, column * size : (column + 1) * size] = first_frame
    np.testing.assert_array_equal(again, np.asarray(page))
