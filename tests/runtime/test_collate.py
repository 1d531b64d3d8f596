"""Padding: against loops that fill nested lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from periscope_runtime.collate import Tensors, collate
from periscope_runtime.image_rows import Place, placed
from periscope_runtime.patches import Patches
from periscope_runtime.prepare import Row
from periscope_runtime.recipe import Buckets

BYTES = 6


def made_row(seed: int, tokens: int, images: list[int] | None) -> Row:
    """A row of random numbers with images of so many patches: none is zero, so that padding is seen."""
    random = np.random.default_rng([seed, tokens])
    spans = random.integers(1, 99, (tokens, 2), dtype=np.int32)
    page, grid = None, None
    if images is not None:
        page = Patches(
            random.integers(1, 256, (sum(images), BYTES), dtype=np.uint8),
            random.integers(1, 99, (sum(images), 2), dtype=np.int32),
            tuple((1, patches) for patches in images),
            merge=1,
        )
        grid = (seed, 1, len(images))
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
    blanks = {"patches": [0] * BYTES, "patch_positions": [0, 0], "patch_grids": [1, 1], "patch_segments": -1}
    length = smallest_multiple(max([1, *(count for page in pages for _, count in page.grids)]), buckets.patches)
    filled = [slow_image_rows(page, length) for page in pages]
    most = max(1, max(len(images["patches"]) for images, _ in filled))
    for name, blank in blanks.items():
        rows_of_items = [padded(images[name], most, []) for images, _ in filled]
        result[name] = [[padded(row, length, blank) for row in rows_of_item] for rows_of_item in rows_of_items]
    tokens = smallest_multiple(max([1, *(len(page.patches_PC) for page in pages)]), buckets.patches)
    result["visual_index"] = [padded(index, tokens, 0) for _, index in filled]
    return result


def slow_image_rows(page: Patches, length: int) -> tuple[dict[str, list[Any]], list[int]]:
    """Rows of the images of one item, unpadded, and where its patches have come to stand."""
    found: dict[str, list[Any]] = {"patches": [], "patch_positions": [], "patch_grids": [], "patch_segments": []}
    index, first = [], 0
    for _, count in page.grids:
        if not found["patches"] or len(found["patches"][-1]) + count > length:
            for rows in found.values():
                rows.append([])
        image = max(found["patch_segments"][-1], default=-1) + 1
        for patch in range(first, first + count):
            index.append(length * (len(found["patches"]) - 1) + len(found["patches"][-1]))
            found["patches"][-1].append(page.patches_PC[patch].tolist())
            found["patch_positions"][-1].append(page.positions_P2[patch].tolist())
            found["patch_grids"][-1].append([1, count])
            found["patch_segments"][-1].append(image)
        first += count
    return found, index


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


IMAGES = st.lists(st.integers(1, 20), max_size=5)


@given(st.lists(st.tuples(st.integers(1, 20), IMAGES), min_size=1, max_size=4), BUCKETS)
@settings(deadline=None, max_examples=100)
def test_images_are_padded_as_a_loop_pads_them(items: list[tuple[int, list[int]]], buckets: Buckets) -> None:
    rows = [made_row(seed, tokens, images) for seed, (tokens, images) in enumerate(items)]

    check(collate(rows, buckets), slow_collate(rows, buckets))


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40))
def test_rows_of_images_cost_no_more_than_twice_what_they_hold(lengths: list[int]) -> None:
    places = placed(lengths, max(lengths))

    assert (places[-1].row + 1) * max(lengths) < 2 * sum(lengths) + max(lengths)


def test_frames_of_one_size_have_a_row_each() -> None:
    assert placed([5, 5, 5], 8) == [Place(0, 0, 0), Place(1, 0, 0), Place(2, 0, 0)]


def test_small_images_share_the_row_that_a_larger_one_needs() -> None:
    assert placed([9, 4, 4, 4], 9) == [Place(0, 0, 0), Place(1, 0, 0), Place(1, 4, 1), Place(2, 0, 0)]


@pytest.mark.parametrize(("length", "expected"), [(1, 8), (7, 8), (8, 8), (9, 16)])
def test_a_length_that_fits_its_bucket_is_not_padded_further(length: int, expected: int) -> None:
    tensors = collate([made_row(0, length, None)], Buckets(patches=256, page_tokens=64, text_tokens=8))

    assert tensors["input_ids"].shape == (1, expected)
