"""Oddities of LamRA-Ret; everything else is in tests/contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from e2e.pages import draw_page
from periscope_runtime.errors import PreparationError
from periscope_runtime.prepare import Row
from periscope_testing.lamra_ret import Lamra25Reference, LamraReference
from periscope_testing.qwen2_5_vl import make_qwen2_5_vl
from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl
from periscope_testing.reference import Item
from periscope_testing.system import with_other
from systems.prepared import largest_difference, preparing

# By its recipe, what writes a checkpoint and what it is compared with.
PUBLISHED: dict[str, tuple[Callable[..., Path], type[LamraReference]]] = {
    "lamra_ret": (make_qwen2_vl, LamraReference),
    "lamra_ret_qwen2_5": (make_qwen2_5_vl, Lamra25Reference),
}
TEXTS = (' "a cat\r\n on a mat" ', "is it one?", '""quoted""', "ß", "last line\n")


@pytest.fixture(scope="module", params=PUBLISHED)
def recipe(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def checkpoint(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a processor that allows no more than 128 visual tokens, and no fewer than 32."""
    sizes = Qwen2VLSizes(min_pixels=32 * 784, max_pixels=128 * 784)
    return PUBLISHED[recipe][0](tmp_path_factory.mktemp("lamra") / "checkpoint", sizes)


@pytest.fixture(scope="module")
def prepared(recipe: str, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Item], Row]:
    return preparing(checkpoint, recipe, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def reference(recipe: str, checkpoint: Path) -> LamraReference:
    return PUBLISHED[recipe][1](checkpoint)


def test_the_published_files(recipe: str, checkpoint: Path, reference: LamraReference, tmp_path: Path) -> None:
    assert largest_difference(checkpoint, recipe, reference, tmp_path / "made") < 1e-5


def test_a_narrow_page_is_clamped(prepared: Callable[[Item], Row], reference: LamraReference) -> None:
    """The code of its evaluation clamps after it rounds, as qwen-vl-utils does not: 28 x 6804 pixels are too long."""
    page = draw_page(6800, 34)
    patches = prepared(Item(image=page)).patches
    assert patches is not None
    with with_other(max_pixels=0)(reference):
        wanted = reference.pixels(page.resize((200 * 28, 28), Image.Resampling.BICUBIC))
    grids = torch.tensor([[1, *grid] for grid in patches.patch_grids])
    np.testing.assert_array_equal(reference.in_order(patches.patches_PC, grids), wanted)


@pytest.mark.parametrize("size", [(900, 900), (500, 90), (20, 17)])
def test_the_processor_resizes_again(
    prepared: Callable[[Item], Row], reference: LamraReference, size: tuple[int, int]
) -> None:
    patches = prepared(Item(image=(page := draw_page(*size)))).patches
    assert patches is not None
    grids = torch.tensor([[1, *grid] for grid in patches.patch_grids])
    np.testing.assert_array_equal(reference.in_order(patches.patches_PC, grids), reference.pixels(page))


@pytest.mark.parametrize("instruction", [None, ' "find a page\r" ', "Which one?"])
def test_texts_are_read_as_those_of_the_benchmark(
    prepared: Callable[[Item], Row], reference: LamraReference, instruction: str | None
) -> None:
    """The instruction first, then both as one; an image with an instruction is an image with a text."""
    page = draw_page(100, 100)
    for item in (*(Item(text, instruction=instruction) for text in TEXTS), Item("x", page, instruction=instruction)):
        np.testing.assert_array_equal(prepared(item).input_ids_T, reference.ids(item))
    item = Item(image=page, instruction=instruction)
    np.testing.assert_array_equal(prepared(item).input_ids_T, reference.ids(item))


def test_documents_have_no_instruction(prepared: Callable[[Item], Row], reference: LamraReference) -> None:
    item = Item("a cat", role="document")
    np.testing.assert_array_equal(prepared(item).input_ids_T, reference.ids(item))
    with pytest.raises(PreparationError, match="in the role 'document', in which this retriever takes none"):
        prepared(Item("a cat", role="document", instruction="find it"))


def test_what_the_evaluation_cuts_is_refused(prepared: Callable[[Item], Row], reference: LamraReference) -> None:
    """Documents are cut after 1024 tokens, of which <emb> has to be one."""
    beside = len(prepared(Item("x.")).input_ids_T) - 2
    longest = Item("x" + " 1" * ((1023 - beside - 2) // 2) + ".")
    assert len(reference.ids(longest)) <= 1023
    prepared(longest)
    with pytest.raises(PreparationError, match=r"above the limit of 1023"):
        prepared(Item("x" + " 1" * 1023))
