"""Oddities of U-MARVEL; everything else is in tests/contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from e2e.pages import draw_page
from periscope_runtime.errors import PreparationError
from periscope_runtime.prepare import Row
from periscope_testing.qwen2_vl import Qwen2VLSizes
from periscope_testing.reference import Item
from periscope_testing.u_marvel import UMarvelReference, make_u_marvel
from systems.prepared import largest_difference, preparing

RECIPE = "u_marvel"
TEXTS = (' "a cat\r\n on a mat" ', "is it one?", "<|endoftext|>", "a<|endoftext|><|endoftext|> b", "<emb>")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a processor that allows no more than 128 visual tokens, and no fewer than 32; float32, tied."""
    sizes = Qwen2VLSizes(min_pixels=32 * 784, max_pixels=128 * 784)
    return make_u_marvel(tmp_path_factory.mktemp("u_marvel") / "checkpoint", sizes, layout="new", form="nested")


@pytest.fixture(scope="module")
def prepared(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Item], Row]:
    return preparing(checkpoint, RECIPE, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> UMarvelReference:
    return UMarvelReference(checkpoint)


def test_the_published_files(checkpoint: Path, reference: UMarvelReference, tmp_path: Path) -> None:
    assert largest_difference(checkpoint, RECIPE, reference, tmp_path / "made") < 1e-5


@pytest.mark.parametrize("instruction", [None, ' "find a page\r" ', "Which one?"])
def test_which_tokens_make_the_mean(
    prepared: Callable[[Item], Row], reference: UMarvelReference, instruction: str | None
) -> None:
    """All but those of the instruction and its two marks, and but the token of padding, also in the text."""
    page = draw_page(100, 100)
    items = [Item(text, instruction=instruction) for text in TEXTS]
    for item in (*items, Item(image=page, instruction=instruction), Item("x", page, instruction=instruction)):
        row, ids_T = prepared(item), torch.from_numpy(reference.ids(item))
        np.testing.assert_array_equal(row.input_ids_T, ids_T)
        np.testing.assert_array_equal(row.pooled_T.astype(bool), reference.mean(ids_T).numpy())
        assert (row.pooled_T == 0).any() == (instruction is not None or "<|endoftext|>" in (item.text or ""))


def test_documents_take_no_instruction(prepared: Callable[[Item], Row]) -> None:
    with pytest.raises(PreparationError, match="in the role 'document'"):
        prepared(Item("x", role="document", instruction="Find it."))


@pytest.mark.parametrize("size", [(900, 900), (500, 90), (20, 17)])
def test_the_processor_resizes_again(
    prepared: Callable[[Item], Row], reference: UMarvelReference, size: tuple[int, int]
) -> None:
    patches = prepared(Item(image=(page := draw_page(*size)))).patches
    assert patches is not None
    np.testing.assert_array_equal(patches.patches_PC, reference.pixels(page))
