"""Values that win over a recipe, and messages about settings that it cannot hold."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from periscope_client.console import main
from periscope_export.errors import ExportError
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import parse_settings, resolve, with_settings

COLQWEN2 = load_recipe("colqwen2")


def test_values_are_yaml() -> None:
    given = ["batch.page=2", "preparation.image.mean=[0.5, 0.5, 0.5]", "preparation.augmentation=null"]
    given += [
        'preparation.prompts.query.text="Query: {text}=\\n"',
        "outputs.rerank.positive=Ja",
        "tolerance.fp16.scores=1.0e-3",
    ]
    assert parse_settings(given) == {
        "batch.page": 2,
        "preparation.image.mean": [0.5, 0.5, 0.5],
        "preparation.augmentation": None,
        "preparation.prompts.query.text": "Query: {text}=\n",
        "outputs.rerank.positive": "Ja",
        "tolerance.fp16.scores": 1e-3,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["batch.page"], "--set batch.page has not the form FIELD=VALUE"),
        (["=2"], "--set =2 has not the form FIELD=VALUE"),
        (["batch.page=2", "batch.page=3"], "--set gives batch.page twice"),
        (["preparation.prompts.query.text={text}{augmentation}"], "two kinds of quotes: --set 'preparation.prompts"),
    ],
)
def test_what_is_no_setting_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        parse_settings(given)


def test_the_user_wins_over_the_checkpoint_and_the_checkpoint_over_the_recipe() -> None:
    stored = {"min_pixels": 6272, "max_pixels": 1003520}
    settings = {"preparation.image.max_pixels": 301056, "preparation.limits": {"image_pixels": 134217728}}
    recipe, changes = resolve(COLQWEN2, {"preprocessor_config.json": stored}.get, settings)
    image, limits = recipe.preparation.page_policy, recipe.preparation.limits
    assert (image.min_pixels, image.max_pixels) == (6272, 301056)
    assert (limits.image_pixels, limits.text_tokens) == (134217728, COLQWEN2.preparation.limits.text_tokens)
    assert changes[-2] == "set by --set: preparation.image.max_pixels: 1003520 -> 301056"
    assert len(changes) == 4


def test_sections_can_be_added_and_taken_away() -> None:
    settings = {"augmentation": None, "instruction.default": "Find it.", "prompts.query.text": "{instruction}{text}"}
    recipe = with_settings(COLQWEN2, {f"preparation.{field}": value for field, value in settings.items()})
    assert recipe.preparation.augmentation is None
    assert recipe.preparation.instruction is not None
    assert recipe.preparation.instruction.default == "Find it."


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "preparation.limits.image_pixel",
            5,
            "there is no field 'preparation.limits.image_pixel', the nearest is 'preparation.limits.image_pixels'",
        ),
        ("limits.image_pixels", 5, "'limits' that can be set, the nearest is 'preparation.limits'"),
        ("preparation.max_pixels", 5, "'preparation.max_pixels', the nearest is 'preparation.image.max_pixels'"),
        ("batch.pages", 5, "there is no field 'batch.pages', the nearest is 'batch.page'"),
        ("zzz", 5, "there is no field 'zzz' that can be set, docs/recipes.md lists those that there are"),
        ("name", "other", "there is no field 'name' that can be set"),
        ("backbone", "paligemma", "there is no field 'backbone' that can be set"),
        ("preparation.limits.image_pixels", "many", "preparation.limits.image_pixels: Input should be a valid integer"),
        ("preparation.image.mean", [0.5], "preparation.image.mean.1: Field required"),
        ("preparation.image.mean.0", 0.5, "preparation.image.mean: Input should be a valid tuple"),
        ("preparation.limits", 3, "preparation.limits: Input should be a dictionary"),
        (
            "preparation.prompts.query.text",
            {"text": None},
            "preparation.prompts.query.text: Input should be a valid str",
        ),
        ("preparation.prompts.query.words", "{text}", "preparation.prompts.query.words.[key]: Input should be 'text'"),
        ("outputs.rerank.positive", "yes", "outputs.rerank: a score is made of two tokens"),
        ("preparation.limits.image_pixels", 0, "preparation.limits: image_pixels is 0: it has to be 1 at least"),
        ("preparation.image.max_pixels", 784, "min_pixels 3136 and max_pixels 784 leave no size between them"),
        ("preparation.image.merge_size", 0, "preparation.image: merge_size is 0: it has to be 1 at least"),
        ("preparation.image.std", [0.5, 0, 0.5], "preparation.image: mean "),
        ("preparation.image.mean", [float("nan")] * 3, "make no numbers of pixels"),
        ("preparation.image.max_aspect_ratio", 0, "max_aspect_ratio is 0.0: it has to be 1 at least"),
        ("attention", "both", "attention: Input should be 'causal' or 'bidirectional'"),
    ],
)
def test_a_setting_that_the_recipe_cannot_hold(field: str, value: Any, message: str) -> None:
    with pytest.raises(ExportError, match=r"^recipe: --set: .*Correct what is set\.$") as raised:
        with_settings(COLQWEN2, {field: value})
    assert message in str(raised.value)


def test_all_that_is_wrong_is_said_before_a_checkpoint_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "nobody/nothing", "--recipe", "colqwen2", "--output", str(tmp_path / "models")]
    assert main([*arguments, "--set", "batch.pages=3", "--set", "preparation.limits.tokens=few"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "batch.pages" in line
    assert "preparation.limits.tokens: Input should be a valid integer" in line
