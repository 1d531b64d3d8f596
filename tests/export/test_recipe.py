"""Recipes are data: checked when read, corrected by what the checkpoint says about itself."""

from __future__ import annotations

from typing import Any

import pytest

from periscope_export.errors import ExportError
from periscope_export.recipes.loading import load_recipe, merged, recipe_names
from periscope_export.recipes.overrides import resolve


def files(**content: dict[str, Any]) -> Any:
    """A checkpoint that holds these JSON files."""
    return lambda name: content.get(name.removesuffix(".json"))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_sound(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.paths
    assert resolve(recipe, files()) == (recipe, [])
    assert type(recipe).model_validate(recipe.served()) == recipe


def test_an_unknown_recipe_names_those_that_exist() -> None:
    with pytest.raises(ExportError, match=r"no recipe 'colqwen9'. Did you mean 'colqwen2'\? Use one of: .*colqwen2"):
        load_recipe("colqwen9")
    with pytest.raises(ExportError, match=r"no recipe 'zzz'. Use one of: colpali, "):
        load_recipe("zzz")


@pytest.mark.parametrize(
    ("stored", "limits"),
    [
        ({"preprocessor_config": {"min_pixels": 784, "max_pixels": 200704}}, (784, 200704)),
        ({"preprocessor_config": {"size": {"shortest_edge": 784, "longest_edge": 1568}}}, (784, 1568)),
        # As transformers: the old fields win where both are present.
        ({"preprocessor_config": {"min_pixels": 784, "size": {"shortest_edge": 1, "longest_edge": 1568}}}, (784, 1568)),
        ({"processor_config": {"image_processor": {"size": {"shortest_edge": 5, "longest_edge": 6}}}}, (5, 6)),
        ({"preprocessor_config": {"patch_size": 14}}, (3136, 602112)),
    ],
)
def test_pixel_limits_of_the_checkpoint_win(stored: dict[str, Any], limits: tuple[int, int]) -> None:
    recipe, changes = resolve(load_recipe("colqwen2"), files(**stored))
    image = recipe.preparation.image
    assert (image.min_pixels, image.max_pixels) == limits
    assert len(changes) == sum(new != old for new, old in zip(limits, (3136, 602112), strict=True))


def test_prompts_of_the_checkpoint_win() -> None:
    stored = {"query_prefix": "Question: ", "visual_prompt_prefix": "<|image_pad|>What is this?"}
    recipe, changes = resolve(load_recipe("colqwen2"), files(processor_config=stored))
    assert recipe.preparation.prompts["query"]["text"] == "Question: {text}{augmentation}"
    assert recipe.preparation.prompts["document"]["image"] == "<|image_pad|>What is this?"
    assert len(changes) == 2


def test_a_checkpoint_that_is_prepared_differently_is_refused() -> None:
    stored = {"resample": 2, "do_normalize": False, "image_mean": [0.5, 0.5, 0.5]}
    with pytest.raises(ExportError) as raised:
        resolve(load_recipe("colqwen2"), files(preprocessor_config=stored))
    assert "resample is 2" in str(raised.value)
    assert "do_normalize is False" in str(raised.value)


def test_a_recipe_that_extends_another_states_what_differs() -> None:
    plain, dense = load_recipe("colqwen2"), load_recipe("colqwen2_dense")
    assert plain.outputs.dense is None
    assert dense.outputs.dense is not None
    assert dense.preparation.pooling == "mean"
    assert dense.outputs.late == plain.outputs.late
    assert dense.preparation == plain.preparation


def test_merging_is_field_by_field_and_replaces_lists() -> None:
    under = {"a": {"b": 1, "c": {"d": 2, "e": [1, 2]}}, "f": 3, "g": {"h": 4}}
    over = {"a": {"c": {"e": [9]}}, "f": {"i": 5}, "g": 6}
    assert merged(under, over) == {"a": {"b": 1, "c": {"d": 2, "e": [9]}}, "f": {"i": 5}, "g": 6}
    assert under["a"] == {"b": 1, "c": {"d": 2, "e": [1, 2]}}
