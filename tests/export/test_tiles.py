"""A retriever of pages in tiles, as a recipe file on a family that exists: each tile is alone in the vision tower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from export.test_towers import SIZES
from periscope_export.errors import ExportError
from periscope_export.fidelity.record import Golden, run_step
from periscope_export.graphs.graph import module_runner
from periscope_export.models.weights import load_step
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.repository import wire
from periscope_export.repository.profiles import step_profiles
from periscope_export.repository.writing import write_preparation
from periscope_runtime.collate import Tensors, collate
from periscope_runtime.image_rows import image_rows
from periscope_runtime.patches import patchify
from periscope_runtime.paths import IMAGE, TEXT
from periscope_runtime.prepare import Preparer
from periscope_runtime.tiles import tiled
from periscope_testing.colpali.checkpoint import ColPaliSizes, make_colpali
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from runtime.pictures import encode, noise

TILES = "{side: 56, closest_ratio: {max_tiles: 6}, thumbnail: last}"
RECIPE = f"""
extends: colqwen2
preparation:
  positions: sequential
  image: {{resize: [], min_pixels: null, max_pixels: null, max_aspect_ratio: null, tiles: {TILES}}}
  buckets: {{patches: 16, page_tokens: 8}}
checkpoint_values: {{preparation.image.min_pixels: null, preparation.image.max_pixels: null}}
"""
# Two columns and three rows with a thumbnail; one tile.
PAGES = [noise(165, 234), noise(60, 60)]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> PublishedRetriever:
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    checkpoint = make_colqwen2(folder / "checkpoint", SIZES, seed=5, adapter=None)
    return open_retriever(str(checkpoint), str(folder / "mine.yaml"))


@pytest.fixture(scope="module")
def preparer(retriever: PublishedRetriever, tmp_path_factory: pytest.TempPathFactory) -> Preparer:
    folder = tmp_path_factory.mktemp("repository")
    return Preparer(write_preparation(folder, "r", retriever.recipe, retriever.tokenizer)["image"])


@pytest.fixture(scope="module")
def batch(preparer: Preparer) -> Tensors:
    rows = [preparer.image(encode(page, "PNG")) for page in PAGES]
    return collate(rows, preparer.preparation.buckets)


@pytest.fixture(scope="module")
def made(retriever: PublishedRetriever, batch: Tensors) -> Golden:
    """Every tensor between the pages and their vectors."""
    tensors: Golden = {"image": dict(batch)}
    for step in retriever.steps:
        if IMAGE in step.paths:
            run_step(step.name, "image", tensors, module_runner(step, load_step(step, retriever.checkpoint.weights)))
    return tensors


def alone(retriever: PublishedRetriever, page: int) -> NDArray[np.float32]:
    """Visual tokens of a page: each of its tiles an item of its own, one after the other."""
    step, policy = retriever.steps[0], retriever.recipe.preparation.page_policy
    run = module_runner(step, load_step(step, retriever.checkpoint.weights))
    found = []
    for tile in tiled(PAGES[page], policy):
        tensors = image_rows([patchify([tile], policy)], 16)
        (tokens,) = run(step.name, {spec.name: tensors[spec.name] for spec in step.inputs}).values()
        found.append(tokens[0])
    return np.concatenate(found)


@pytest.mark.parametrize("bucket", [16, 48])
def test_tiles_are_alone_in_the_vision_tower(retriever: PublishedRetriever, preparer: Preparer, bucket: int) -> None:
    """In rows of their own, and in those that three of them share."""
    step = retriever.steps[0]
    patches = [row.patches for page in PAGES if (row := preparer.image(encode(page, "PNG"))).patches is not None]
    tensors = image_rows(patches, bucket)
    assert tensors["patches"].shape[:3] == (2, 7 if bucket == 16 else 3, bucket)
    run = module_runner(step, load_step(step, retriever.checkpoint.weights))
    (tokens,) = run(step.name, {spec.name: tensors[spec.name] for spec in step.inputs}).values()
    for page, length in enumerate((28, 4)):
        wanted = alone(retriever, page)
        assert len(wanted) == length
        np.testing.assert_allclose(tokens[page, :length], wanted, atol=1e-5)
    # A tile out of place is another page.
    assert np.abs(tokens[0, :4] - tokens[0, 4:8]).max() > 1e-2


def test_a_page_has_a_vector_for_each_token_of_each_tile(preparer: Preparer, batch: Tensors, made: Golden) -> None:
    late, kept = made["image"]["late"], made["image"]["late_mask"]
    beside = [length - visual for length, visual in zip(kept.sum(1), (28, 4), strict=True)]
    assert beside[0] == beside[1]
    np.testing.assert_allclose(np.linalg.norm(late[kept > 0], axis=-1), 1, atol=1e-5)
    assert (batch["input_ids"] == preparer.image_token_id).sum(1).tolist() == [28, 4]


def test_engines_are_made_for_the_whole_budget(
    retriever: PublishedRetriever, preparer: Preparer, batch: Tensors
) -> None:
    vision = retriever.steps[0]
    (pages,) = step_profiles(vision, retriever.recipe, preparer.lengths, retriever.width)
    assert (pages.lengths["G"], pages.lengths["P"], pages.lengths["V"]) == ((1, 7, 7), (4, 4, 4), (4, 28, 28))
    for name, (smallest, _, largest) in pages.shapes.items():
        for least, length, most in zip(smallest, batch[name].shape, largest, strict=True):
            assert least <= length <= most, name


def test_pages_have_no_grid_to_draw_a_map_on(retriever: PublishedRetriever) -> None:
    recipe, steps = retriever.recipe, retriever.steps
    assert {spec.name for spec in wire.outputs(recipe, IMAGE, steps)} == {"late", "late_mask"}
    assert "token_spans" in {spec.name for spec in wire.outputs(recipe, TEXT, steps)}
    assert "visual_grid" not in {spec.name for spec in wire.prepared(recipe, IMAGE, steps)}


def test_a_tower_of_one_image_an_item_refuses_tiles(tmp_path: Path) -> None:
    checkpoint = make_colpali(tmp_path / "made", ColPaliSizes(side=56), adapter=False)
    tiles = {"side": 56, "closest_ratio": {"max_tiles": 2}}
    with pytest.raises(ExportError, match=r"preparation\.image\.tiles makes several images of a page"):
        open_retriever(str(checkpoint), "colpali", settings={"preparation.image.tiles": tiles})
