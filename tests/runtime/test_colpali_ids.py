"""Token ids of ColPali's prompts: those of transformers' processor, and, with another prompt, of colpali-engine's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from periscope_export.published import open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.schema import Recipe
from periscope_export.repository.writing import write_preparation
from periscope_runtime.prepare import Preparer
from periscope_testing.colpali.checkpoint import ColPaliSizes, make_colpali
from periscope_testing.colpali.reference import ColPaliReference
from runtime.pictures import encode, noise

SIDE = 56


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = ColPaliSizes(side=SIDE, layers=1, vision_layers=1)
    return make_colpali(tmp_path_factory.mktemp("made") / "colpali", sizes, adapter=False, layout="transformers")


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> ColPaliReference:
    return ColPaliReference(checkpoint)


def preparer_of(recipe: Recipe, checkpoint: Path, folder: Path) -> Preparer:
    return Preparer(write_preparation(folder, "r", recipe, checkpoint / "tokenizer.json")["text"])


@pytest.fixture(scope="module")
def preparer(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Preparer:
    recipe = open_retriever(str(checkpoint), "colpali").recipe
    return preparer_of(recipe, checkpoint, tmp_path_factory.mktemp("prepared"))


@given(st.text(min_size=1, max_size=60).filter(lambda text: bool(text.strip()) and "<image>" not in text))
@settings(deadline=None, max_examples=100)
def test_any_query_has_the_published_ids(preparer: Preparer, reference: ColPaliReference, text: str) -> None:
    row = preparer.text(text.encode(), "query")
    np.testing.assert_array_equal(row.input_ids_T, reference.query_inputs([text])["input_ids"][0])
    begins_T, ends_T = row.spans_T2.T
    assert (begins_T >= 0).all()
    assert (begins_T <= ends_T).all()
    assert ends_T.max() <= len(text)


def test_pages_have_the_published_ids(preparer: Preparer, reference: ColPaliReference) -> None:
    page = noise(60, 40)
    row = preparer.image(encode(page, "PNG"))
    np.testing.assert_array_equal(row.input_ids_T, reference.image_inputs([page])["input_ids"][0])
    assert row.visual_grid == (0, SIDE // 14, SIDE // 14)


@pytest.mark.parametrize(
    ("template", "prefix", "augmented"),
    [
        ("<bos>Query: {text}{augmentation}\n", "Query: ", "<pad>" * 10 + "\n"),
        ("<bos>{text}{augmentation}", "", "<pad>" * 10),
        ("<bos>Query: {text}{augmentation}", "Query: ", "<pad>" * 10),
    ],
)
def test_prompts_of_colpali_engine_are_another_field_of_the_recipe(
    checkpoint: Path, tmp_path: Path, template: str, prefix: str, augmented: str
) -> None:
    from colpali_engine.models import ColPaliProcessor

    data = open_retriever(str(checkpoint), "colpali").recipe.served()
    data["preparation"]["prompts"] = {
        "query": {"text": template},
        "document": {"image": "<image><bos><bos>Describe the image.\n"},
    }
    preparer = preparer_of(Recipe.model_validate(data), checkpoint, tmp_path)
    engine, page, text = ColPaliProcessor.from_pretrained(checkpoint), noise(60, 40), "revenue by region"
    wanted = engine.process_texts([prefix + text + augmented])["input_ids"][0]
    np.testing.assert_array_equal(preparer.text(text.encode()).input_ids_T, wanted)
    wanted = engine.process_images([page])["input_ids"][0]
    np.testing.assert_array_equal(preparer.image(encode(page, "PNG")).input_ids_T, wanted)


def test_the_tokenizer_adds_its_special_tokens_where_the_recipe_says_so(checkpoint: Path, tmp_path: Path) -> None:
    assert "TemplateProcessing" in json.dumps(json.loads((checkpoint / "tokenizer.json").read_text())["post_processor"])
    data = load_recipe("colpali").served()
    ids = {}
    for adds in (False, True):
        data["preparation"]["special_tokens"] = adds
        preparer = preparer_of(Recipe.model_validate(data), checkpoint, tmp_path / str(adds))
        ids[adds] = preparer.text(b"x").input_ids_T.tolist()
    assert ids[True] == [2, *ids[False]]
