"""Tensors that graphs read and no item holds."""

from __future__ import annotations

import numpy as np

from periscope_runtime.collate import Tensors
from periscope_runtime.completion import Wanted, completed

TEXTS: Tensors = {"input_ids": np.ones((3, 8), np.int32)}
PAGES: Tensors = {**TEXTS, "patches": np.zeros((3, 1, 4, 12), np.uint8)}
VISUAL = {"visual_tokens": Wanted(np.float16, 256)}


def test_texts_take_no_visual_tokens_in_the_precision_of_the_graph() -> None:
    nothing = completed(TEXTS, VISUAL, 0)["visual_tokens"]
    assert nothing.shape == (3, 0, 256)
    assert nothing.dtype == np.float16


def test_visual_tokens_of_pages_are_made_of_their_patches() -> None:
    assert completed(PAGES, VISUAL, 0).keys() == PAGES.keys()


def test_a_dense_vector_keeps_its_first_columns() -> None:
    columns = completed(PAGES, {"dense_columns": Wanted(np.int32)}, 4)["dense_columns"]
    assert columns.tolist() == [[0, 1, 2, 3]] * 3
    assert columns.dtype == np.int32


def test_what_no_graph_reads_is_not_made() -> None:
    assert completed(TEXTS, {"input_ids": Wanted(np.int32)}, 4).keys() == TEXTS.keys()
