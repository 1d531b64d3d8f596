"""Oddities of VLM2Vec-V2; everything else is in tests/contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from e2e.pages import draw_page
from periscope_export.recipes.loading import load_recipe
from periscope_runtime.errors import PreparationError
from periscope_runtime.prepare import Row
from periscope_testing.qwen2_vl import Form, Layout, Qwen2VLSizes, make_qwen2_vl
from periscope_testing.reference import Item
from periscope_testing.vlm2vec_v2 import Vlm2VecReference, make_vlm2vec_v2
from systems.prepared import largest_difference, preparing

RECIPE = "vlm2vec_v2"
PAGE, FRAMES = draw_page(100, 60), tuple(draw_page(90, 120, seed) for seed in range(20))
CONTENTS = (Item("a cat "), Item(image=PAGE), Item("a cat", PAGE), Item(video=FRAMES[:2]), Item("a cat", video=FRAMES))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Merged weights, with limits of their own, 8 to 100 visual tokens, that would change most pages."""
    sizes = Qwen2VLSizes(min_pixels=6272, max_pixels=78400)
    return make_qwen2_vl(tmp_path_factory.mktemp("vlm2vec") / "checkpoint", sizes)


@pytest.fixture(scope="module")
def prepared(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Item], Row]:
    return preparing(checkpoint, RECIPE, tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Vlm2VecReference:
    return Vlm2VecReference(checkpoint)


@pytest.mark.parametrize("make", [make_qwen2_vl, make_vlm2vec_v2], ids=["merged", "adapter"])
@pytest.mark.parametrize(("layout", "form", "tied"), [("old", "short", True), ("new", "nested", False)])
def test_every_layout(tmp_path: Path, make: Callable[..., Path], layout: Layout, form: Form, tied: bool) -> None:
    sizes = Qwen2VLSizes(vision_layers=1, heads=4, kv_heads=2, tied=tied, rank=3, dtype=torch.bfloat16)
    checkpoint = make(tmp_path / "checkpoint", sizes, layout=layout, form=form)
    assert largest_difference(checkpoint, RECIPE, Vlm2VecReference(checkpoint), tmp_path / "made") < 1e-5


@pytest.mark.parametrize("instruction", [None, " Find it: ", "Find it:\n"])
def test_a_prompt_is_what_there_is_of_token_instruction_and_text(
    prepared: Callable[[Item], Row], reference: Vlm2VecReference, instruction: str | None
) -> None:
    """One space between them, and nothing stripped."""
    for content in CONTENTS:
        item = replace(content, instruction=instruction)
        row = prepared(item)
        np.testing.assert_array_equal(row.input_ids_T, reference.ids(item))
        assert np.flatnonzero(row.pooled_T).tolist() == [len(row.input_ids_T) - 1]
        np.testing.assert_array_equal(row.positions_3T, [np.arange(len(row.input_ids_T))] * 3)


@pytest.mark.parametrize("role", ["query", "document"])
def test_tasks_are_instructions_of_a_role(
    prepared: Callable[[Item], Row], reference: Vlm2VecReference, role: str
) -> None:
    for name, task in load_recipe(RECIPE).preparation.tasks.items():
        for content in CONTENTS:
            wanted = reference.ids(replace(content, instruction=task.instruction_in(role)))
            np.testing.assert_array_equal(prepared(replace(content, role=role, task=name)).input_ids_T, wanted)


@pytest.mark.parametrize("size", [(27, 300), (28, 28), (20, 17), (60, 27), (300, 200), (1500, 1300)])
def test_pages_of_every_size(
    prepared: Callable[[Item], Row], reference: Vlm2VecReference, size: tuple[int, int]
) -> None:
    """Small ones are stretched first; the limits of the checkpoint are never used."""
    patches = prepared(Item(image=(page := draw_page(*size)))).patches
    assert patches is not None
    np.testing.assert_array_equal(patches.patches_PC, reference.pixels(page))


@pytest.mark.parametrize("frames", [1, 2, 5, 8, 9, 20])
def test_two_frames_share_their_visual_tokens(
    prepared: Callable[[Item], Row], reference: Vlm2VecReference, frames: int
) -> None:
    """Of 8 at most, evenly spread."""
    patches = prepared(Item(video=FRAMES[:frames])).patches
    assert patches is not None
    assert len(patches.grids) == (min(frames, 8) + 1) // 2
    np.testing.assert_array_equal(patches.patches_PC, reference.video_pixels(FRAMES[:frames]))


def test_frames_have_the_limits_of_pages(prepared: Callable[[Item], Row], reference: Vlm2VecReference) -> None:
    """Each by itself, however many they are."""
    frames = tuple(draw_page(1400, 1200, seed) for seed in range(2))
    patches = prepared(Item(video=frames)).patches
    assert patches is not None
    assert 1200 < patches.visual_tokens[0] <= 1280
    np.testing.assert_array_equal(patches.patches_PC, reference.video_pixels(frames))


def test_frames_of_different_sizes_are_refused(prepared: Callable[[Item], Row]) -> None:
    with pytest.raises(PreparationError, match="has frames of different sizes"):
        prepared(Item(video=(FRAMES[0], PAGE)))
