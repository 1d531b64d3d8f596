"""Reading `recipe.json`: what the export wrote comes back, and what does not fit is named completely."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from periscope_export.recipes.schema import Recipe
from periscope_runtime.recipe import Preparation, ResizeStep
from periscope_runtime.recipe_file import load_preparation


@pytest.fixture
def served(recipe: Recipe) -> dict[str, Any]:
    """A recipe as the export writes it, for a test to spoil."""
    return recipe.served()


def written(served: object, folder: Path) -> Path:
    path = folder / "recipe.json"
    path.write_text(json.dumps(served), encoding="utf-8")
    return path


def problem(served: object, folder: Path) -> str:
    with pytest.raises(ValueError, match=r"^recipe\.json: .*Export the checkpoint again") as caught:
        load_preparation(written(served, folder))
    return str(caught.value)


def test_what_the_export_wrote_comes_back_equal(
    served: dict[str, Any], preparation: Preparation, tmp_path: Path
) -> None:
    read = load_preparation(written(served, tmp_path))

    assert read == preparation
    assert isinstance(read.page_policy.mean, tuple)
    assert isinstance(read.page_policy.resize[0], ResizeStep)


def test_an_optional_field_may_be_null_or_absent(served: dict[str, Any], tmp_path: Path) -> None:
    served["preparation"]["augmentation"] = None
    served["preparation"]["prompts"]["query"]["text"] = "{text}"
    assert load_preparation(written(served, tmp_path)).augmentation is None

    del served["preparation"]["augmentation"]
    assert load_preparation(written(served, tmp_path)).augmentation is None


def test_sections_other_than_the_preparation_are_not_looked_at(served: dict[str, Any], tmp_path: Path) -> None:
    alone = {"preparation": served["preparation"], "something_new": 1}

    assert load_preparation(written(alone, tmp_path)) == load_preparation(written(served, tmp_path))


def test_every_missing_and_unknown_field_is_named_at_once(served: dict[str, Any], tmp_path: Path) -> None:
    preparation = served["preparation"]
    del preparation["positions"], preparation["image"]["patch_size"], preparation["limits"]["text_tokens"]
    del preparation["limits"]["image_bytes"], preparation["augmentation"]["count"]
    preparation["tiles"] = 4
    preparation["image"]["zoom"] = 2

    message = problem(served, tmp_path)

    expected = [
        "preparation.positions is missing",
        "preparation.tiles is unknown",
        "preparation.image.patch_size is missing",
        "preparation.image.zoom is unknown",
        "preparation.limits.image_bytes is missing",
        "preparation.limits.text_tokens is missing",
        "preparation.augmentation.count is missing",
    ]
    assert sorted(message.removeprefix("recipe.json: ").split(". Export")[0].split("; ")) == sorted(expected)


@pytest.mark.parametrize("section", ["image", "buckets", "limits"])
@pytest.mark.parametrize("value", [3, "text", []])
def test_a_section_that_holds_no_fields_is_named(
    served: dict[str, Any], section: str, value: object, tmp_path: Path
) -> None:
    served["preparation"][section] = value

    assert f"preparation.{section} has no fields" in problem(served, tmp_path)


@pytest.mark.parametrize("content", [{}, {"preparation": {}}, {"preparation": None}, [], 1, None])
def test_a_file_without_a_preparation_is_refused(content: object, tmp_path: Path) -> None:
    assert "preparation" in problem(content, tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "wanted"),
    [
        ("image.patch_size", "14", "int"),
        ("image.patch_size", True, "int"),
        ("image.patch_size", 14.0, "int"),
        ("image.mean", [0.5, "0.5", 0.5], "tuple"),
        ("image.mean", [0.5, 0.5], "tuple"),
        ("image.resample", "nearest", "Literal"),
        ("image.max_pixels", [1], "int"),
        ("image.resize", {"area": {}}, "list"),
        ("image.resize.0.area.multiple", "28", "int"),
        ("special_tokens", 1, "bool"),
        ("pooling", "first", "Union"),
        ("pooling", {"text": "first"}, "Union"),
        ("text_rules", ["shout"], "tuple"),
        ("image_token", 7, "str"),
        ("prompts", {"query": "{text}"}, "dict"),
        ("prompts", {"query": {"text": 7}}, "dict"),
        ("limits.image_bytes", None, "int"),
        ("augmentation.count", "10", "int"),
    ],
)
def test_a_field_of_another_type_is_named(
    served: dict[str, Any], place: str, value: object, wanted: str, tmp_path: Path
) -> None:
    *sections, name = place.split(".")
    section = served["preparation"]
    for one in sections:
        section = section[int(one) if one.isdigit() else one]
    section[name] = value

    message = problem(served, tmp_path)

    assert f"preparation.{place} is {value!r}, which is no {wanted}" in message
    assert message.count("which is no") == 1


def test_a_whole_number_is_a_float(served: dict[str, Any], tmp_path: Path) -> None:
    served["preparation"]["image"]["max_aspect_ratio"] = 200
    assert load_preparation(written(served, tmp_path)).page_policy.max_aspect_ratio == 200


def test_numbers_that_contradict_each_other_are_named(served: dict[str, Any], tmp_path: Path) -> None:
    served["preparation"]["image"]["min_pixels"] = None
    served["preparation"]["limits"]["text_bytes"] = 0
    message = problem(served, tmp_path)
    assert "the step area of resize needs min_pixels" in message
    assert "text_bytes is 0" in message


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    for content in (b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^recipe\.json: it does not parse as JSON"):
            load_preparation(path)
