"""Every word of a recipe outside `preparation` changes what is exported, or is refused, or only says something.

A word that changed nothing would be in the fingerprint, and in nothing that is served.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from periscope_export.errors import ExportError
from periscope_export.fidelity.fingerprint import vector_fields
from periscope_export.fidelity.gate import problems
from periscope_export.models.heads import ScoreHead, rerank_step
from periscope_export.models.steps import Step
from periscope_export.published import open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings
from periscope_export.recipes.schema import Tolerance
from periscope_export.repository.profiles import rows
from periscope_export.repository.wire import rows as rows_of_requests
from periscope_runtime.paths import IMAGE, RERANK, TEXT, VIDEO
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_embedding
from periscope_testing.systems import SYSTEMS
from test_surface import RECIPE_FIELDS

TESTS = Path(__file__).parents[1]
SAID = "export/test_systems_table.py::test_the_document_is_that_of_the_recipes"
DENSE = "export/test_sentence_transformers_files.py::"
HEADS = "export/test_heads.py::"
TASKS = "export/test_task_adapters.py::"
ADDED = "export/test_added_tokens.py::"
HERE = "export/test_recipe_words.py::"
# The test of each word that fails where it changes nothing. Some only say something, and are in docs/systems.md.
HELD = {
    "name": "export/test_recipe_files.py::test_an_export_of_a_file_is_called_by_its_name",
    "description": SAID,
    "checkpoints[].id": "export/test_which_recipe.py::test_the_recipe_of_a_listed_checkpoint_is_known",
    "checkpoints[].revision": SAID,
    "bases[]": "export/test_which_recipe.py::test_the_base_of_adapters_is_no_retriever",
    "form": SAID,
    "licence": SAID,
    **{f"published[].{one}": SAID for one in ("benchmark", "metric", "value", "checkpoint", "source")},
    **{f"reference.{one}": SAID for one in ("package", "version", "note", "max_abs_error")},
    "backbone": HERE + "test_another_backbone_is_refused",
    "attention": HERE + "test_another_attention_is_another_graph_or_refused",
    "final_norm": HERE + "test_what_is_left_out_is_another_graph_or_refused",
    "deepstack": HERE + "test_what_is_left_out_is_another_graph_or_refused",
    "mean_rows[]": ADDED + "test_the_file_s_rows_are_another_form",
    "unused_weights[]": ADDED + "test_a_weight_that_the_recipe_does_not_name_is_left_over",
    "adapters.task": TASKS + "test_the_adapter_of_a_task_is_merged_as_peft_activates_it",
    "adapters.folder": TASKS + "test_the_full_weights_alone_are_another_system",
    "adapters.merged": TASKS + "test_an_adapter_that_is_merged_already",
    "outputs.late.projection": HEADS + "test_a_projection_that_the_recipe_does_not_name_is_left_over",
    "outputs.dense.dimensions": HEADS + "test_the_first_columns_are_normalised_again",
    "outputs.dense.layers[].path": DENSE + "test_a_dense_layer_without_its_own_weights",
    "outputs.dense.layers[].inputs": DENSE + "test_users_decide_over_pooling_and_layers",
    "outputs.dense.layers[].outputs": DENSE + "test_users_decide_over_pooling_and_layers",
    "outputs.dense.layers[].bias": DENSE + "test_a_dense_layer_without_its_own_weights",
    "outputs.dense.layers[].activation": DENSE + "test_vectors_are_made_as_the_files_say",
    "outputs.rerank.positive": HEADS + "test_the_direction_is_a_difference_in_float32",
    "outputs.rerank.negative": HEADS + "test_the_direction_is_a_difference_in_float32",
    "outputs.rerank.layers[].names[]": HEADS + "test_layers_that_make_no_score",
    "outputs.rerank.layers[].bias": HEADS + "test_a_bias_that_the_recipe_does_not_know_is_left_over",
    "outputs.rerank.layers[].activation": HEADS + "test_a_score_of_layers_of_the_checkpoint",
    "outputs.rerank.offset": HEADS + "test_the_language_head_may_have_a_constant_too",
    **{f"batch.{one}": HERE + "test_rows_are_those_that_the_server_joins" for one in ("text", "page", "video", "pair")},
    "checkpoint_values.*.from[]": "export/test_recipe.py::test_pixel_limits_of_the_checkpoint_win",
    "checkpoint_values.*.template": "export/test_recipe.py::test_prompts_of_the_checkpoint_win",
    "checkpoint_values.*.behind": "export/test_stored_values.py::test_what_follows_a_prefix_follows_no_empty_one",
    "checkpoint_values.*.ask_above": "export/test_stored_values.py::test_a_limit_in_reach_of_the_recipe_s_is_taken",
    "checkpoint_values.*.at_most.*": "export/test_stored_values.py::test_of_two_limits_the_lower_counts",
    "checkpoint_requires.*": "export/test_recipe.py::test_a_checkpoint_that_is_prepared_differently_is_refused",
    "quantisation.*.*.keep[]": "export/test_remedies.py::test_a_refused_int8_names_a_keep_list_and_a_precision",
    "quantisation.*.*.per_token[]": "export/test_per_token.py::test_a_pattern_that_finds_nothing_is_refused",
    **{
        f"tolerance.*.{one}": HERE + "test_each_bound_refuses" for one in ("vectors", "cosine", "mean_cosine", "scores")
    },
}


def test_every_word_has_its_test() -> None:
    assert sorted(HELD) == sorted(one for one in RECIPE_FIELDS if not one.startswith("preparation."))
    for place in set(HELD.values()):
        file, _, name = place.partition("::")
        functions = [
            node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)
        ]
        assert name in functions, place


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    checkpoint = make_qwen3_vl_embedding(tmp_path / "made", Qwen3VLSizes(vision_layers=1, levels=(0,), layers=1))
    for backbone in ("qwen2_vl", "paligemma", "jina_clip", "qwen9_vl"):
        (tmp_path / "mine.yaml").write_text(f"extends: qwen3_vl_embedding\nbackbone: {backbone}\n")
        known = (
            "there is no backbone 'qwen9_vl'. Use one of: jina_clip, paligemma, " if backbone == "qwen9_vl" else None
        )
        with pytest.raises(ExportError, match=known):
            open_retriever(str(checkpoint), str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("recipe", sorted({system.recipe for system in SYSTEMS.values()}))
def test_another_attention_is_another_graph_or_refused(recipe: str, tmp_path: Path) -> None:
    system = next(one for one in SYSTEMS.values() if one.recipe == recipe)
    checkpoint = str((system.shallow or system.make)(tmp_path / "made"))

    def inputs(steps: tuple[Step, ...]) -> list[str]:
        return [spec.name for step in steps for spec in step.inputs]

    retriever = open_retriever(checkpoint, recipe, settings=system.settings)
    other = "causal" if retriever.recipe.attention == "bidirectional" else "bidirectional"
    refusal, changed = "", retriever.steps
    try:
        changed = open_retriever(checkpoint, recipe, settings={**system.settings, "attention": other}).steps
    except ExportError as error:
        refusal = str(error)
    assert "attention" in refusal or inputs(changed) != inputs(retriever.steps)


@pytest.mark.parametrize("recipe", sorted({system.recipe for system in SYSTEMS.values()}))
def test_what_is_left_out_is_another_graph_or_refused(recipe: str, tmp_path: Path) -> None:
    """The states themselves: test_qwen3_vl_towers.py."""
    system = next(one for one in SYSTEMS.values() if one.recipe == recipe)
    checkpoint = str((system.shallow or system.make)(tmp_path / "made"))
    retriever = open_retriever(checkpoint, recipe, settings=system.settings)
    modules = {step.name: step.build().state_dict().keys() for step in retriever.steps}
    for word, step, weight in (
        ("final_norm", "language_model", "norm.weight"),
        ("deepstack", "vision_encoder", "deepstack_merger_list.0.fc1.weight"),
    ):
        there = weight in modules.get(step, ())
        if there or not getattr(retriever.recipe, word):
            changed = open_retriever(checkpoint, recipe, settings={**system.settings, word: not there})
            (found,) = (one for one in changed.steps if one.name == step)
            assert (weight in found.build().state_dict()) is not there
            assert vector_fields(changed.recipe, "fp32") != vector_fields(retriever.recipe, "fp32")
        else:
            with pytest.raises(ExportError, match=rf"{word} is false, .* no such thing .* Set {word}=true"):
                open_retriever(checkpoint, recipe, settings={**system.settings, word: False})


def test_rows_are_those_that_the_server_joins() -> None:
    for word, path in (("text", TEXT), ("page", IMAGE), ("video", VIDEO), ("pair", RERANK)):
        recipe = with_settings(load_recipe("qwen3_vl_reranker"), {f"batch.{word}": 7})
        step = replace(rerank_step(8, lambda: ScoreHead(0)), paths=(path,))
        assert rows(step, recipe) == 7
        # Of pairs a request already holds many.
        assert rows_of_requests(recipe, path) == (0 if path is RERANK else 7)


def test_each_bound_refuses() -> None:
    worst = {"path": "text", "row": 0, "token": 0, "cosine": 0.9, "since": {"late_head": 0.1}}
    vectors = {"max_abs_error": 0.1, "min_cosine": 0.9, "mean_cosine": 0.95, "furthest": []}
    retrieval = {"max_error_by_token": 0.01, "largest_swapped_gap": 0.0, "furthest": worst}
    measured = {"vectors": vectors, "retrieval": retrieval}
    loose = {"vectors": 0.2, "cosine": 0.8, "mean_cosine": 0.9, "scores": 0.1}
    assert problems(measured, Tolerance(**loose)) == []
    for word, bound in (("vectors", 0.05), ("cosine", 0.92), ("mean_cosine", 0.96)):
        assert len(problems(measured, Tolerance(**{**loose, word: bound}))) == 1, word
    swapped = {**measured, "retrieval": {**retrieval, "largest_swapped_gap": 0.05}}
    assert problems(swapped, Tolerance(**loose)) == []
    assert len(problems(swapped, Tolerance(**{**loose, "scores": 0.02}))) == 1
