"""The graphs of a retriever on PaliGemma."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from periscope_export.errors import ExportError
from periscope_export.families.paligemma.config import VisionConfig, read_configs
from periscope_export.families.paligemma.towers import LanguageModel, VisionEncoder
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.recipes.schema import Recipe
from periscope_runtime.recipe import ImagePolicy


def width(config: Mapping[str, Any]) -> int:
    """Return H, the width of the hidden states that the heads read."""
    return read_configs(config)[1].width


def image_token_id(config: Mapping[str, Any]) -> int:
    """Return the id over whose embeddings the language model writes visual tokens."""
    return read_configs(config)[1].image_token_id


def steps(config: Mapping[str, Any], recipe: Recipe) -> tuple[Step, ...]:
    """Return the vision encoder and the language model, without weights. Raises `ExportError` for an unfit config."""
    vision, language = read_configs(config)
    image = recipe.preparation.page_policy
    _check(vision, image)
    tokens = ("B", vision.patches, language.width)
    return (
        Step(
            name="vision_encoder",
            build=partial(VisionEncoder, vision, image),
            prefix="visual.",
            inputs=(TensorSpec("patches", "uint8", ("B", 1, vision.patches, image.patch_dim)),),
            outputs=(TensorSpec("visual_tokens", "float", tokens),),
            paths=recipe.visual_paths,
        ),
        Step(
            name="language_model",
            build=partial(LanguageModel, language),
            prefix="language_model.",
            inputs=(
                TensorSpec("input_ids", "int32", ("B", "T")),
                TensorSpec("attention_mask", "int32", ("B", "T")),
                # None beside texts.
                TensorSpec("visual_tokens", "float", ("B", "V", language.width)),
            ),
            outputs=(TensorSpec("hidden_states", "float", ("B", "T", language.width)),),
            paths=recipe.paths,
        ),
    )


def _check(vision: VisionConfig, image: ImagePolicy) -> None:
    """Raise `ExportError` unless the recipe's images are those that the table of positions was trained for."""
    wanted = {"patch_size": vision.patch, "temporal_patch_size": 1, "merge_size": 1, "side": vision.side}
    problems = [
        f"preparation.image.{name} is {found!r}, the checkpoint needs {value}"
        for name, value in wanted.items()
        if (found := getattr(image, name)) != value
    ]
    if problems:
        raise ExportError(f"recipe: {'; '.join(problems)}. Use the preprocessor_config.json of the checkpoint.")
