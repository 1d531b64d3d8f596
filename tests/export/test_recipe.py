"""Recipes are data: checked when read, corrected by what the checkpoint says about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from periscope_export.errors import ExportError
from periscope_export.recipes import loading
from periscope_export.recipes.loading import family_names, load_recipe, merged, recipe_names
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
    with pytest.raises(ExportError, match=r"no recipe 'zzz'. Use one of: .*colpali, "):
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
    image = recipe.preparation.page_policy
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


def test_bases_of_families_are_no_systems() -> None:
    """And none stands for nothing: each is a part of some recipe."""
    assert not set(family_names()) & set(recipe_names())
    for name in family_names():
        with pytest.raises(ExportError, match=f"{name} is what the recipes of a family have in common, and no system"):
            load_recipe(name)
    folder = Path(loading.__file__).parent
    extended = [yaml.safe_load(path.read_text()).get("extends", []) for path in folder.rglob("*.yaml")]
    assert {parent for one in extended for parent in ([one] if isinstance(one, str) else one)} >= set(family_names())


def test_what_a_base_reads_of_a_checkpoint_can_be_taken_away(tmp_path: Path) -> None:
    """Systems whose own code sets the pixels never look at the processor's."""
    text = "extends: colqwen2\ncheckpoint_values: {preparation.image.max_pixels: null}\n"
    (tmp_path / "mine.yaml").write_text(text + "checkpoint_requires: {image_processor:resample: null}\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    stored = {"preprocessor_config": {"min_pixels": 784, "max_pixels": 200704, "resample": 2}}
    image = resolve(recipe, files(**stored))[0].preparation.page_policy
    assert (image.min_pixels, image.max_pixels) == (784, 602112)


def test_a_value_of_the_checkpoint_needs_a_field(tmp_path: Path) -> None:
    text = "extends: colqwen2\ncheckpoint_values: {preparation.image.pixels: {from: [config.json:pixels]}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ExportError, match=r"there is no field 'preparation\.image\.pixels' to override"):
        load_recipe(str(tmp_path / "mine.yaml"))
