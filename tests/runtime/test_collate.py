"""Padding: against loops that fill nested lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from periscope_runtime.collate import Tensors, collate, no_visual_tokens
from periscope_runtime.patches import Patches
from periscope_runtime.prepare import Row
from periscope_runtime.recipe import Buckets

BYTES = 6


def made_row(seed: int, tokens: int, patches: int | None) -> Row:
    """A row of random numbers: none is zero, so that padding is seen."""
    random = np.random.default_rng([seed, tokens])
    spans = random.integers(1, 99, (tokens, 2), dtype=np.int32)
    page, grid = None, None
    if patches is not None:
        page = Patches(
            random.integers(1, 256, (patches, BYTES), dtype=np.uint8),
            random.integers(1, 99, (patches, 2), dtype=np.int32),
            ((1, patches),) if patches else (),
            merge=1,
        )
        grid = (seed, 1, patches)
    positions = random.integers(1, 99, (3, tokens), dtype=np.int32)
    pooled = random.integers(1, 99, tokens, dtype=np.int32)
    return Row(random.integers(1, 99, tokens, dtype=np.int32), positions, spans, pooled, page, grid)


def padded(values: list[Any], length: int, blank: Any) -> list[Any]:
    result = list(values)
    while len(result) < length:
        result.append(blank)
    return result


def smallest_multiple(at_least: int, step: int) -> int:
    multiple = step
    while multiple < at_least:
        multiple += step
    return multiple


def slow_collate(rows: list[Row], buckets: Buckets) -> dict[str, list[Any]]:
    pages = [row.patches for row in rows if row.patches is not None]
    longest = max(len(row.input_ids_T) for row in rows)
    tokens = smallest_multiple(longest, buckets.page_tokens if pages else buckets.text_tokens)
    masks: dict[str, list[Any]] = {"attention_mask": [], "late_mask": [], "pool_mask": []}
    result: dict[str, list[Any]] = {"input_ids": [], "position_ids": [], "token_spans": [], **masks}
    for row in rows:
        result["input_ids"].append(padded(row.input_ids_T.tolist(), tokens, 0))
        result["position_ids"].append([padded(axis, tokens, 0) for axis in row.positions_3T.tolist()])
        result["attention_mask"].append(padded([1 for _ in row.input_ids_T], tokens, 0))
        result["late_mask"].append(padded([1 for _ in row.input_ids_T], tokens, 0))
        result["pool_mask"].append(padded(row.pooled_T.tolist(), tokens, 0))
        result["token_spans"].append(padded(row.spans_T2.tolist(), tokens, [0, 0]))
    if not pages:
        return result
    result["visual_grid"] = [list(row.visual_grid) for row in rows if row.visual_grid is not None]
    result |= {"patches": [], "patch_positions": [], "patch_grids": [], "patch_segments": []}
    patches = smallest_multiple(max(1, *(len(page.patches_PC) for page in pages)), buckets.patches)
    for page in pages:
        result["patches"].append(padded(page.patches_PC.tolist(), patches, [0] * BYTES))
        result["patch_positions"].append(padded(page.positions_P2.tolist(), patches, [0, 0]))
        result["patch_grids"].append(padded([[1, len(page.patches_PC)] for _ in page.patches_PC], patches, [1, 1]))
        result["patch_segments"].append(padded([0 for _ in page.patches_PC], patches, -1))
    return result


def check(tensors: Tensors, expected: dict[str, list[Any]]) -> None:
    assert sorted(tensors) == sorted(expected)
    for name, array in tensors.items():
        assert array.tolist() == expected[name], name
        assert array.dtype == (np.uint8 if name == "patches" else np.int32), name
        assert array.flags.c_contiguous, name


BUCKETS = st.builds(Buckets, patches=st.integers(1, 9), page_tokens=st.integers(1, 9), text_tokens=st.integers(1, 9))
LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=5)


@given(LENGTHS, BUCKETS)
@settings(deadline=None, max_examples=100)
def test_texts_are_padded_as_a_loop_pads_them(lengths: list[int], buckets: Buckets) -> None:
    rows = [made_row(seed, length, None) for seed, length in enumerate(lengths)]

    check(collate(rows, buckets), slow_collate(rows, buckets))


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), min_size=1, max_size=4), BUCKETS)
@settings(deadline=None, max_examples=100)
def test_pages_are_padded_as_a_loop_pads_them(lengths: list[tuple[int, int]], buckets: Buckets) -> None:
    rows = [made_row(seed, tokens, patches) for seed, (tokens, patches) in enumerate(lengths)]

    check(collate(rows, buckets), slow_collate(rows, buckets))


@pytest.mark.parametrize(("length", "expected"), [(1, 8), (7, 8), (8, 8), (9, 16)])
def test_a_length_that_fits_its_bucket_is_not_padded_further(length: int, expected: int) -> None:
    tensors = collate([made_row(0, length, None)], Buckets(patches=256, page_tokens=64, text_tokens=8))

    assert tensors["input_ids"].shape == (1, expected)


def test_texts_take_an_empty_float_tensor_for_visual_tokens() -> None:
    nothing = no_visual_tokens(3, 256)

    assert nothing.shape == (3, 0, 256)
    assert nothing.dtype == np.float32
