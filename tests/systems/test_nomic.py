"""Oddities of Nomic Embed Multimodal and ColNomic; everything else is in tests/contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from export.test_towers import page
from periscope_export.published import open_retriever
from periscope_testing.colqwen2.layout import Layout
from periscope_testing.files import write_json
from periscope_testing.nomic import NomicReference, make_nomic
from periscope_testing.qwen2_vl import Form, Qwen2VLSizes
from periscope_testing.reference import Item
from systems.prepared import largest_difference, preparing

RECIPE = "nomic_embed_multimodal"
TEXTS = ("revenue by region", " a\nb ")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As few visual tokens as show whose limit counts."""
    sizes = Qwen2VLSizes(vision_layers=1, language_layers=1, max_pixels=16 * 784)
    return make_nomic(tmp_path_factory.mktemp("nomic") / "checkpoint", sizes, adapter=False)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> NomicReference:
    return NomicReference(checkpoint)


@pytest.mark.parametrize(
    ("layout", "adapter", "form", "tied", "dtype"),
    [
        ("engine-old", True, "short", False, torch.bfloat16),
        ("engine-new", True, "nested", True, torch.float32),
        ("engine-old", False, "flat", False, torch.float32),
    ],
)
def test_every_layout(
    tmp_path: Path, layout: Layout, adapter: bool, form: Form, tied: bool, dtype: torch.dtype
) -> None:
    sizes = Qwen2VLSizes(language_layers=1, heads=4, kv_heads=2, tied=tied, dtype=dtype)
    checkpoint = make_nomic(tmp_path / "checkpoint", sizes, layout=layout, adapter=adapter, form=form)
    assert largest_difference(checkpoint, RECIPE, NomicReference(checkpoint), tmp_path / "made") < 1e-5


def test_texts_that_are_documents_take_the_path_of_queries(
    checkpoint: Path, reference: NomicReference, tmp_path: Path
) -> None:
    prepared = preparing(checkpoint, RECIPE, tmp_path)
    for text in TEXTS:
        wanted = reference.ids(Item(text))
        for role in ("query", "document"):
            np.testing.assert_array_equal(prepared(Item(text, role=role)).input_ids_T, wanted)


def test_pages_are_as_large_as_the_checkpoint_s_limit_lets_them(
    checkpoint: Path, reference: NomicReference, tmp_path: Path
) -> None:
    recipe = open_retriever(str(checkpoint), RECIPE).recipe
    assert recipe.preparation.page_policy.max_pixels == 16 * 784
    wanted = reference.ids(Item(image=page(), role="document"))
    row = preparing(checkpoint, RECIPE, tmp_path)(Item(image=page(), role="document"))
    np.testing.assert_array_equal(row.input_ids_T, wanted)


def test_the_form_of_later_versions_is_within_reach(
    checkpoint: Path, reference: NomicReference, tmp_path: Path
) -> None:
    """Ten tokens of augmentation and no prefix: what colpali-engine 0.3.18 makes of a query."""
    settings = {"preparation.prompts.query.text": "{text}{augmentation}", "preparation.augmentation.count": 10}
    prepared = preparing(checkpoint, RECIPE, tmp_path, settings)
    for text in TEXTS:
        wanted = np.asarray(reference.processor.process_queries([text])["input_ids"][0])
        np.testing.assert_array_equal(prepared(Item(text)).input_ids_T, wanted)


def test_a_query_prefix_of_the_checkpoint_is_that_of_documents_too(checkpoint: Path) -> None:
    write_json(checkpoint / "processor_config.json", {"query_prefix": "Find: "})
    prompts = open_retriever(str(checkpoint), RECIPE).recipe.preparation.prompts
    assert prompts["query"]["text"] == prompts["document"]["text"] == "Find: {text}{augmentation}"
