"""The graphs of a retriever on jina-clip: one tower for images, one for texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from periscope_export.errors import ExportError
from periscope_export.families.jina_clip.config import read_configs
from periscope_export.families.jina_clip.eva02 import VisionEncoder
from periscope_export.families.jina_clip.jina_bert import TextEncoder
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.recipes.schema import Recipe
from periscope_runtime.lengths import bucketed, visual_tokens
from periscope_runtime.paths import IMAGE, TEXT


def width(config: Mapping[str, Any]) -> int:
    """Return H, the width of the hidden states that the head reads."""
    return read_configs(config)[1].width


def steps(config: Mapping[str, Any], recipe: Recipe) -> tuple[Step, ...]:
    """Return both towers, without weights. Raises `ExportError` for an unfit config."""
    vision, text = read_configs(config)
    image, patches = recipe.preparation.page_policy, vision.grid**2
    _check_patches(recipe, patches)
    return (
        Step(
            name="vision_encoder",
            build=partial(VisionEncoder, vision, image),
            prefix="vision_model.",
            inputs=(TensorSpec("patches", "uint8", ("B", 1, patches, image.patch_dim)),),
            outputs=(TensorSpec("hidden_states", "float", ("B", 1, vision.width)),),
            paths=(IMAGE,),
        ),
        Step(
            name="text_encoder",
            build=partial(TextEncoder, text),
            prefix="text_model.",
            inputs=(
                TensorSpec("input_ids", "int32", ("B", "T")),
                TensorSpec("attention_mask", "int32", ("B", "T")),
            ),
            outputs=(TensorSpec("hidden_states", "float", ("B", "T", text.width)),),
            paths=(TEXT,),
        ),
    )


def _check_patches(recipe: Recipe, patches: int) -> None:
    """Raise `ExportError` unless preparation sends as many patches as the vision tower has positions for."""
    preparation = recipe.preparation
    sent = {bucketed(tokens, preparation.buckets.patches) for tokens in visual_tokens(preparation.page_policy)}
    if sent != {patches}:
        raise ExportError(
            f"recipe {recipe.name}: images have {', '.join(map(str, sorted(sent)))} patches after padding, and the "
            f"checkpoint's vision tower takes {patches}. Correct preparation.image and buckets.patches."
        )
