"""Oddities of GME-Qwen2-VL; everything else is in tests/contract."""

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
from periscope_testing.gme_qwen2_vl import GmeReference
from periscope_testing.qwen2_vl import Form, Layout, Qwen2VLSizes, make_qwen2_vl
from periscope_testing.reference import Item
from systems.prepared import largest_difference, preparing

RECIPE = "gme_qwen2_vl"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a limit of its own, 100 visual tokens, that would change every page."""
    return make_qwen2_vl(tmp_path_factory.mktemp("gme") / "checkpoint", Qwen2VLSizes(max_pixels=78400))


@pytest.fixture(scope="module")
def prepared(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Item], Row]:
    return preparing(checkpoint, RECIPE, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> GmeReference:
    return GmeReference(checkpoint)


@pytest.mark.parametrize(
    ("layout", "form", "tied", "dtype"),
    [
        ("old", "flat", True, torch.float32),
        ("old", "short", False, torch.bfloat16),
        ("new", "nested", True, torch.bfloat16),
        ("new", "short", False, torch.float32),
    ],
)
def test_every_layout(tmp_path: Path, layout: Layout, form: Form, tied: bool, dtype: torch.dtype) -> None:
    sizes = Qwen2VLSizes(vision_layers=1, language_layers=3, heads=4, kv_heads=2, tied=tied, dtype=dtype)
    checkpoint = make_qwen2_vl(tmp_path / "checkpoint", sizes, layout=layout, form=form)
    assert largest_difference(checkpoint, RECIPE, GmeReference(checkpoint), tmp_path / "made") < 1e-5


def test_the_limits_of_the_checkpoint_are_never_used(prepared: Callable[[Item], Row], reference: GmeReference) -> None:
    patches = prepared(Item(image=(page := draw_page(300, 200)))).patches
    assert patches is not None
    assert len(patches.patches_PC) >= 4 * 256
    np.testing.assert_array_equal(patches.patches_PC, reference.pixels(page))


@pytest.mark.parametrize("size", [(6000, 20), (12, 9000), (45, 12000)])
def test_narrow_pages_are_clamped_not_refused(
    prepared: Callable[[Item], Row], reference: GmeReference, size: tuple[int, int]
) -> None:
    page = draw_page(*size)
    short = max(28, round(min(size) / 28) * 28)
    clamped = [200 * short if side == max(size) else short for side in size]
    patches = prepared(Item(image=page)).patches
    assert patches is not None
    wanted = reference.pixels(page.resize((clamped[0], clamped[1]), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(patches.patches_PC, wanted)


def test_an_instruction_is_taken_as_it_is_and_refused_for_documents(
    prepared: Callable[[Item], Row], reference: GmeReference
) -> None:
    for item in (Item("energy", instruction=" find it "), Item("energy", role="document"), Item("energy")):
        np.testing.assert_array_equal(prepared(item).input_ids_T, reference.ids(item))
    with pytest.raises(PreparationError, match="in the role 'document', in which this retriever takes none"):
        prepared(Item("energy", role="document", instruction="find it"))


def test_what_the_released_code_cuts_is_refused(prepared: Callable[[Item], Row]) -> None:
    """It would lose the token that makes the vector."""
    page = draw_page(1200, 1200)
    assert prepared(Item("x " * 200, page)).pooled_T[-1] == 1
    with pytest.raises(PreparationError, match="tokens, 1225 of them visual, above the limit of 1800"):
        prepared(Item("x " * 400, page))
