"""Several images in one item, by a recipe file on Qwen3-VL-Embedding: as the published processor and model take them.

T tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2e.pages import draw_page, encode
from export.qwen3_vl_rows import Built, build, prepared, published, wanted
from periscope_export.fidelity.sample_inputs import sample_inputs
from periscope_export.published import open_retriever
from periscope_export.recipes.schema import Recipe
from periscope_export.repository import wire
from periscope_export.repository.profiles import step_profiles
from periscope_export.repository.writing import write_preparation
from periscope_runtime.asked import Asked
from periscope_runtime.collate import collate
from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item
from periscope_runtime.paths import IMAGE
from periscope_runtime.prepare import Preparer

MINE = r"""
extends: qwen3_vl_embedding
name: several
preparation:
  images: {image: "<|vision_start|><|image_pad|><|vision_end|>", most: 3}
  prompts:
    document:
      images: "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{images}<|im_end|>\n\
        <|im_start|>assistant\n"
      images_text: "<|im_start|>system\n{instruction}<|im_end|>\n<|im_start|>user\n{images}{text}<|im_end|>\n\
        <|im_start|>assistant\n"
  limits: {tokens: 400}
"""
PAGES = [draw_page(150, 220, 3), draw_page(400, 70, 4), draw_page(90, 90, 5), draw_page(64, 64, 6)]
FILES = [encode(page) for page in PAGES]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def built(folder: Path) -> Built:
    return build(folder / "checkpoint")


@pytest.fixture(scope="module")
def recipe(built: Built, folder: Path) -> Recipe:
    (folder / "mine.yaml").write_text(MINE, encoding="utf-8")
    return open_retriever(str(folder / "checkpoint"), str(folder / "mine.yaml")).recipe


@pytest.fixture(scope="module")
def preparer(recipe: Recipe, folder: Path) -> Preparer:
    return Preparer(write_preparation(folder / "r", "r", recipe, folder / "checkpoint" / "tokenizer.json")["image"])


@pytest.mark.parametrize("text", [None, "compare"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_items_are_what_the_published_processor_makes(
    built: Built, preparer: Preparer, count: int, text: str | None
) -> None:
    *first, last_page = PAGES[:count]
    beside: dict[str, Any] = {} if text is None else {"text": text}
    inputs = published(built.reference, {"images": first, "image": last_page, **beside})
    theirs = prepared(built.reference, inputs)
    row = preparer.item(Item(None if text is None else text.encode(), FILES[:count]), Asked("document"))
    np.testing.assert_array_equal(row.input_ids_T, theirs["input_ids"][0])
    np.testing.assert_array_equal(row.positions_3T, theirs["position_ids"][0])
    assert row.patches is not None
    np.testing.assert_array_equal(row.patches.patches_PC, ((inputs["pixel_values"] * 0.5 + 0.5) * 255).round().numpy())
    found = built.run(dict(collate([row], preparer.preparation.buckets)))
    last = len(row.input_ids_T) - 1
    states = found["hidden_states"][0, last], wanted(built.reference, inputs)["hidden_states"][0, last]
    assert np.abs(states[0] - states[1]).max() <= TOLERANCE


def test_the_order_of_images_counts(built: Built, preparer: Preparer) -> None:
    items = [Item(images=FILES[:2]), Item(images=FILES[1::-1])]
    rows = [preparer.item(item, Asked("document")) for item in items]
    first, second = (built.run(dict(collate([row], preparer.preparation.buckets))) for row in rows)
    last = len(rows[0].input_ids_T) - 1
    assert np.abs(first["hidden_states"][0, last] - second["hidden_states"][0, last]).max() > 100 * TOLERANCE


def test_what_is_too_much_is_refused(preparer: Preparer) -> None:
    with pytest.raises(PreparationError, match="has 4 images, above the limit of 3"):
        preparer.item(Item(images=FILES), Asked("document"))
    with pytest.raises(PreparationError, match="432 of them visual, above the limit of 400"):
        preparer.item(Item(images=[encode(draw_page(384, 384, 1))] * 3), Asked("document"))
    with pytest.raises(PreparationError, match="has an image 1 that is empty"):
        preparer.item(Item(images=[FILES[0], b"", FILES[1]]), Asked("document"))
    with pytest.raises(PreparationError, match=r"does not know for several images\. Use one of \['document'\]"):
        preparer.item(Item(images=FILES[:2]), Asked("query"))


def test_only_a_page_alone_has_a_grid(preparer: Preparer) -> None:
    rows = [preparer.item(Item(images=FILES[:count]), Asked("document")) for count in (1, 2)]
    (first, *sides), (of_several, *none) = (row.visual_grid for row in rows if row.visual_grid is not None)
    assert (first, none) == (of_several, [0, 0])
    assert sides == [7, 5]
    assert collate(rows, preparer.preparation.buckets)["visual_grid"].shape == (2, 3)


def test_lengths_and_profiles_cover_several_images(built: Built, recipe: Recipe, preparer: Preparer) -> None:
    found = preparer.lengths[IMAGE]
    rows = [preparer.item(Item(images=FILES[:count]), Asked("document")) for count in (1, 2, 3)]
    for row in rows:
        tensors = collate([row], preparer.preparation.buckets)
        images, patches = tensors["patches"].shape[1:3]
        sizes = (tensors["input_ids"].shape[1], tensors["visual_index"].shape[1], images, patches // 4)
        for length, size in zip(found, sizes, strict=True):
            assert length.smallest <= size <= length.largest
    assert found.image_rows == (1, 3)
    (pages,) = (one for one in step_profiles(built.vision_step, recipe, preparer.lengths, 64) if one.name == "pages")
    assert pages.lengths["G"].largest == 3
    assert pages.lengths["V"].largest == found.visual_tokens.largest


def test_the_wire_takes_a_row_of_images(recipe: Recipe) -> None:
    image, text, *_ = wire.inputs(recipe, IMAGE)
    assert (image.name, image.dims, text.name) == ("IMAGE", [-1], "TEXT")


def test_samples_of_an_export_have_several_images(built: Built, preparer: Preparer) -> None:
    golden = sample_inputs(preparer, [built.vision_step, built.language_step], 64)
    # Rows of images, or images of a row.
    assert golden["image"]["patches"].shape[1] > 1 or golden["image"]["patch_segments"].max() > 0
