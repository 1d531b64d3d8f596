"""The fingerprint changes with what decides vectors, and with nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from periscope_export.fidelity import fingerprint
from periscope_export.fidelity.fingerprint import vector_fields
from periscope_export.models.heads import dense_step
from periscope_export.published import open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_embedding
from periscope_testing.systems import SYSTEMS

RECIPE, PIXELS = "qwen3_vl_embedding", "preparation.image.max_pixels"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = Qwen3VLSizes(vision_layers=4, levels=(0, 1, 2), layers=3)
    return make_qwen3_vl_embedding(tmp_path_factory.mktemp("made") / "checkpoint", sizes)


def begun(folder: Path, settings: Json | None = None) -> str:
    retriever = open_retriever(str(folder), RECIPE, settings=settings)
    return fingerprint.begin(retriever.recipe, "fp32", retriever.steps, retriever.tokenizer).hexdigest()


@pytest.fixture
def changed(checkpoint: Path, tmp_path: Path) -> Callable[..., str]:
    """Says what the checkpoint's fingerprint begins with after a change of one of its files."""

    def change(file: str, edit: Callable[[Json], object]) -> str:
        folder = tmp_path / "changed"
        shutil.copytree(checkpoint, folder)
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        edit(content)
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
        found = begun(folder)
        shutil.rmtree(folder)
        return found

    return change


def rotation(text: Json) -> Json:
    found: Json = text.get("rope_parameters") or text.get("rope_scaling") or {}
    return found


def test_what_no_weight_holds_counts(checkpoint: Path, changed: Callable[..., str]) -> None:
    seen = [
        begun(checkpoint),
        changed("config.json", lambda config: rotation(config["text_config"]).update(rope_theta=12345.0)),
        changed("config.json", lambda config: config["text_config"].update(rms_norm_eps=3e-6)),
        changed("config.json", lambda config: config["vision_config"].update(deepstack_visual_indexes=[0, 1, 3])),
        changed("config.json", lambda config: config["vision_config"].update(num_heads=1)),
        changed("config.json", lambda config: rotation(config["text_config"]).update(mrope_section=[28, 18, 18])),
    ]
    assert len(set(seen)) == len(seen)


def test_what_decides_ids_counts(checkpoint: Path, changed: Callable[..., str]) -> None:
    seen = [
        begun(checkpoint),
        changed("tokenizer.json", lambda one: one["model"]["merges"].pop()),
        changed("tokenizer.json", lambda one: one["model"]["merges"].reverse()),
        changed("tokenizer.json", lambda one: one["added_tokens"][-1].update(lstrip=True)),
        changed("tokenizer.json", lambda one: one.update(normalizer={"type": "Lowercase"})),
    ]
    assert len(set(seen)) == len(seen)


def test_what_preparation_switches_off_and_how_files_are_written_do_not(
    checkpoint: Path, changed: Callable[..., str]
) -> None:
    def other_form(one: Json) -> None:
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in one["model"]["merges"]]
        texts = any(isinstance(pair, list) for pair in one["model"]["merges"])
        one["model"]["merges"] = [" ".join(pair) for pair in pairs] if texts else pairs

    truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0}
    plain = begun(checkpoint)
    assert changed("tokenizer.json", lambda one: one.update(truncation=truncation)) == plain
    padding |= {"pad_type_id": 0, "pad_token": "<|endoftext|>"}
    assert changed("tokenizer.json", lambda one: one.update(padding=padding)) == plain
    assert changed("tokenizer.json", other_form) == plain
    assert changed("config.json", lambda config: config.update(transformers_version="9.9")) == plain


def test_a_setting_changes_it_where_it_decides_vectors(checkpoint: Path) -> None:
    plain = begun(checkpoint)
    served = {"batch.page": 2, "preparation.buckets.text_tokens": 8, "preparation.limits.image_pixels": 134217728}
    assert begun(checkpoint, served) == plain
    assert begun(checkpoint, {PIXELS: 301056}) != plain
    assert begun(checkpoint, {"outputs.dense.dimensions": 32}) != plain


@pytest.mark.parametrize("recipe", sorted({system.recipe for system in SYSTEMS.values()}))
def test_the_towers_of_every_system_say_what_they_are_made_of(recipe: str, tmp_path: Path) -> None:
    """A family that builds a tower of anything but its dataclasses would be left out in silence."""
    system = next(one for one in SYSTEMS.values() if one.recipe == recipe)
    retriever = open_retriever(
        str((system.shallow or system.make)(tmp_path / "made")), system.recipe, settings=system.settings
    )
    towers = [step for step in retriever.steps if step.is_tower]
    assert len(towers) == 2 or retriever.recipe.backbone == "jina_clip"
    for tower in towers:
        assert '"layers": ' in json.dumps([fingerprint._fields(one) for one in tower.constants]), tower.name


def test_places_of_weights_do_not_count() -> None:
    """Their weights do."""
    recipe = load_recipe("colqwen2")
    renamed = with_settings(recipe, {"outputs.late.projection": ["custom_text_proj"]})
    assert vector_fields(renamed, "fp32") == vector_fields(recipe, "fp32")
    whole = with_settings(recipe, {"outputs.late.projection": None})
    assert vector_fields(whole, "fp32") != vector_fields(recipe, "fp32")
    assert vector_fields(recipe, "bf16") != vector_fields(recipe, "fp32")


def test_int8_counts_how_it_is_quantised() -> None:
    recipe = load_recipe("colqwen2")
    kept = with_settings(recipe, {"quantisation.int8.language_model.keep": ["o_proj"]})
    assert vector_fields(kept, "int8") != vector_fields(recipe, "int8")
    assert vector_fields(kept, "fp8") == vector_fields(recipe, "fp8")


def test_an_output_changes_it_and_its_absence_does_not() -> None:
    plain, dense = (vector_fields(load_recipe(name), "fp32") for name in ("colqwen2", "colqwen2_dense"))
    assert plain["outputs"].keys() == {"late"}
    assert dense["outputs"] == {**plain["outputs"], "dense": {}}


def test_a_step_of_no_dataclass_has_no_constants() -> None:
    assert dense_step(8, False, ()).constants == []
