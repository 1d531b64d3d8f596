"""Optimization profiles: what a recipe's buckets, limits and batches make of the shapes of each step."""

from __future__ import annotations

import pytest

from periscope_export.families.qwen2_vl import steps
from periscope_export.models.heads import dense_step, late_step, maxsim_step
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.schema import Recipe
from periscope_export.repository.profiles import Lengths, Profile, query_shapes, rows, shapes, step_profiles, usual_rows
from periscope_export.repository.writing import accelerator_shapes
from periscope_runtime.lengths import Range, item_lengths
from periscope_runtime.paths import IMAGE, TEXT

RECIPE = load_recipe("colqwen2")
LENGTHS = item_lengths(RECIPE.preparation, {TEXT: Range(1, 2048), IMAGE: Range(16, 16)})
# The published sizes of Qwen2-VL 2B, as far as they decide shapes.
CONFIG = {
    "hidden_size": 1536,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "intermediate_size": 8960,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "image_token_id": 151655,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "num_heads": 16,
        "mlp_ratio": 4,
        "hidden_size": 1536,
        "spatial_merge_size": 2,
    },
}


@pytest.fixture
def by_name() -> dict[str, Step]:
    graphs = (
        *steps(CONFIG, RECIPE),
        late_step(1536, 128, RECIPE.paths),
        dense_step(1536, False, RECIPE.paths),
        maxsim_step(128),
    )
    return {step.name: step for step in graphs}


def profiles(step: Step, recipe: Recipe = RECIPE) -> dict[str, Profile]:
    return {profile.name: profile for profile in step_profiles(step, recipe, LENGTHS, 1536)}


def test_one_for_single_queries_one_for_batches_one_for_pages(by_name: dict[str, Step]) -> None:
    found = profiles(by_name["language_model"])
    assert list(found) == ["query", "queries", "pages"]
    tokens = Lengths(16, 32, 2048)
    assert found["query"].lengths == {"B": Lengths(1, 1, 1), "T": tokens, "V": Lengths(0, 0, 0)}
    assert found["queries"].lengths == {"B": Lengths(1, 16, 16), "T": tokens, "V": Lengths(0, 0, 0)}
    # 602112 pixels are 768 visual tokens; with the prompt 784 tokens, in buckets of 32: 800. The step joins 16 rows,
    # of pages too.
    assert found["pages"].lengths == {
        "B": Lengths(1, 4, 16),
        "T": Lengths(32, 800, 800),
        "V": Lengths(32, 768, 768),
    }
    assert found["pages"].shapes["visual_tokens"] == ((1, 32, 1536), (4, 768, 1536), (16, 768, 1536))


def test_the_vision_encoder_sees_pages_only(by_name: dict[str, Step]) -> None:
    found = profiles(by_name["vision_encoder"])
    assert list(found) == ["pages"]
    assert found["pages"].lengths == {
        "B": Lengths(1, 4, 4),
        "V": Lengths(32, 768, 768),
        "G": Lengths(1, 1, 1),
        "P": Lengths(32, 768, 768),
    }
    assert found["pages"].shapes["patches"] == ((1, 1, 128, 1176), (4, 1, 3072, 1176), (4, 1, 3072, 1176))


def test_heads_have_no_visual_tokens(by_name: dict[str, Step]) -> None:
    found = profiles(by_name["late_head"])
    assert [list(profile.lengths) for profile in found.values()] == [["B", "T"]] * 3


def test_no_recipe_bounds_what_maxsim_compares(by_name: dict[str, Step]) -> None:
    assert profiles(by_name["maxsim"]) == {}


def test_rows(by_name: dict[str, Step]) -> None:
    found = {name: (rows(step, RECIPE), usual_rows(step, RECIPE)) for name, step in by_name.items()}
    assert found == {
        "vision_encoder": (4, [4]),
        "language_model": (16, [4, 16]),
        "late_head": (16, [4, 16]),
        "dense_head": (16, [4, 16]),
        "maxsim": (0, []),
    }


def test_usual_queries_are_worth_a_recorded_launch(by_name: dict[str, Step]) -> None:
    found = query_shapes(by_name["language_model"], RECIPE, 1536)
    assert [inputs["input_ids"] for inputs in found] == [[16], [32], [48], [64]]
    assert found[0] == {"input_ids": [16], "position_ids": [3, 16], "visual_tokens": [0, 1536]}
    assert query_shapes(by_name["vision_encoder"], RECIPE, 1536) == []


def test_an_axis_times_a_number() -> None:
    patches = TensorSpec("patches", "uint8", ("B", "4V", 1176))
    lengths = {"B": Lengths(1, 2, 3), "V": Lengths(4, 5, 6)}
    assert shapes(patches, lengths) == ((1, 16, 1176), (2, 20, 1176), (3, 24, 1176))


def test_as_the_tensorrt_provider_reads_them(by_name: dict[str, Step]) -> None:
    found = list(profiles(by_name["late_head"]).values())[:2]
    assert accelerator_shapes(found, 1) == (
        "hidden_states:1x32x1536,late_mask:1x32,hidden_states:16x32x1536,late_mask:16x32"
    )
