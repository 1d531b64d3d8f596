"""Position ids: against a loop over tokens, and against the published rule."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from periscope_runtime.positions import mrope_positions, sequential_positions
from periscope_testing.colqwen2.reference import ColQwen2Reference

IMAGE = 7
TEXT = 1
Grid = tuple[int, int]

GRIDS = st.tuples(st.integers(1, 6), st.integers(1, 6))
# Texts between images; a text of its own length before, between and after.
PROMPTS = st.lists(GRIDS, max_size=4).flatmap(
    lambda grids: st.tuples(
        st.just(grids),
        st.lists(st.integers(1, 5), min_size=max(len(grids) - 1, 0), max_size=max(len(grids) - 1, 0)),
        st.integers(0, 5),
        st.integers(0 if grids else 1, 5),
    )
)


def tokens(grids: list[Grid], between: list[int], before: int, after: int) -> list[int]:
    ids = [TEXT] * before
    for number, (rows, columns) in enumerate(grids):
        ids += [IMAGE] * (rows * columns)
        ids += [TEXT] * (between[number] if number < len(between) else after)
    return ids if grids else ids + [TEXT] * after


def slow_positions(ids: list[int], grids: list[Grid]) -> list[tuple[int, int, int]]:
    """Walk over the tokens one by one and number each."""
    numbered: list[tuple[int, int, int]] = []
    waiting = list(grids)
    next_position = 0
    token = 0
    while token < len(ids):
        if ids[token] != IMAGE:
            numbered.append((next_position, next_position, next_position))
            next_position += 1
            token += 1
            continue
        rows, columns = waiting.pop(0)
        for row in range(rows):
            for column in range(columns):
                numbered.append((next_position, next_position + row, next_position + column))
                token += 1
        next_position += max(rows, columns)
    return numbered


@given(PROMPTS)
@settings(deadline=None, max_examples=200)
def test_positions_are_those_of_a_walk_over_the_tokens(prompt: tuple[list[Grid], list[int], int, int]) -> None:
    grids, ids = prompt[0], tokens(*prompt)

    positions = mrope_positions(np.array(ids, np.int32), IMAGE, grids)

    assert [tuple(token) for token in positions.T.tolist()] == slow_positions(ids, grids)
    assert positions.dtype == np.int32


@given(PROMPTS)
@settings(deadline=None, max_examples=100)
def test_positions_are_the_published_ones(
    reference: ColQwen2Reference, prompt: tuple[list[Grid], list[int], int, int]
) -> None:
    grids, ids = prompt[0], tokens(*prompt)
    image_token = reference.model.config.image_token_id
    ids_T = np.where(np.array(ids) == IMAGE, image_token, TEXT).astype(np.int32)

    positions = mrope_positions(ids_T, image_token, grids)

    published = reference.position_ids(
        {
            "input_ids": torch.from_numpy(ids_T).long()[None],
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "image_grid_thw": torch.tensor([(1, 2 * rows, 2 * columns) for rows, columns in grids]).reshape(-1, 3),
        }
    )
    np.testing.assert_array_equal(positions, published[:, 0].numpy())


def test_text_after_a_page_goes_on_after_its_longer_side() -> None:
    wide = mrope_positions(np.array([TEXT] + [IMAGE] * 6 + [TEXT], np.int32), IMAGE, [(2, 3)])
    tall = mrope_positions(np.array([TEXT] + [IMAGE] * 6 + [TEXT], np.int32), IMAGE, [(3, 2)])

    assert wide.tolist() == [[0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 1, 1, 2, 2, 2, 4], [0, 1, 2, 3, 1, 2, 3, 4]]
    assert tall.tolist() == [[0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 1, 2, 2, 3, 3, 4], [0, 1, 2, 1, 2, 1, 2, 4]]


@given(st.integers(1, 300))
@settings(deadline=None, max_examples=30)
def test_sequential_positions_count_on_every_axis(length: int) -> None:
    positions = sequential_positions(length)

    assert positions.tolist() == [list(range(length))] * 3
    assert positions.dtype == np.int32
