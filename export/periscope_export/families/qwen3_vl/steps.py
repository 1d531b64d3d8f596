"""The graphs of a retriever or reranker on Qwen3-VL."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from periscope_export.families.qwen3_vl.config import read_configs
from periscope_export.families.qwen3_vl.towers import LanguageModel, VisionEncoder
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.recipes.schema import Recipe


def width(config: Mapping[str, Any]) -> int:
    """Return H, the width of the hidden states that the heads read."""
    return read_configs(config)[1].width


def image_token_id(config: Mapping[str, Any]) -> int:
    """Return the id over whose embeddings the language model writes visual tokens, those of video frames too."""
    return read_configs(config)[1].image_token_id


def steps(config: Mapping[str, Any], recipe: Recipe) -> tuple[Step, ...]:
    """Return the vision encoder and the language model, without weights. Raises `ExportError` for an unfit config."""
    vision, language = read_configs(config)
    image = recipe.preparation.page_policy
    # A visual token and, behind it, what DeepStack adds to the first layers at its place.
    visual_tokens = TensorSpec("visual_tokens", "float", ("B", "V", language.width * (1 + language.levels)))
    return (
        Step(
            name="vision_encoder",
            build=partial(VisionEncoder, vision, image),
            prefix="visual.",
            inputs=(
                TensorSpec("patches", "uint8", ("B", "G", "4P", image.patch_dim)),
                TensorSpec("patch_positions", "int32", ("B", "G", "4P", 2)),
                TensorSpec("patch_grids", "int32", ("B", "G", "4P", 2)),
                TensorSpec("patch_segments", "int32", ("B", "G", "4P")),
                TensorSpec("visual_index", "int32", ("B", "V")),
            ),
            outputs=(visual_tokens,),
            paths=recipe.visual_paths,
        ),
        Step(
            name="language_model",
            build=partial(LanguageModel, language),
            prefix="language_model.",
            inputs=(
                TensorSpec("input_ids", "int32", ("B", "T")),
                TensorSpec("position_ids", "int32", ("B", 3, "T")),
                visual_tokens,
            ),
            outputs=(TensorSpec("hidden_states", "float", ("B", "T", language.width)),),
            paths=recipe.paths,
            keeps_prefixes=True,
        ),
    )
