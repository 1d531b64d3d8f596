"""Qwen2.5-VL: the vision tower attends within windows, with RMS norms and gated MLPs; all else is Qwen2-VL's.

Source: arXiv 2502.13923 and the published weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from periscope_export.errors import ExportError
from periscope_export.families import Family
from periscope_export.families.qwen2_vl import RULES, UNUSED, VisionConfig, read_language, towers
from periscope_export.families.reading import (
    Sibling,
    completed,
    refuse,
    refuse_others,
    sizes,
    unknown,
    unsized,
    vision_theta,
)
from periscope_export.models.decoder import LanguageConfig
from periscope_export.models.steps import Step
from periscope_export.models.vision import VisionTransformerConfig
from periscope_export.recipes.schema import Recipe

# A retriever of transformers is called colqwen2 whichever model is inside; some tools name the published class.
_MODEL_TYPES = ("qwen2_5_vl", "colqwen2_5", "colqwen2", "jina_embeddings_v4")
_WHOLE = "its vision tower attends to whole images, and has layer norms and plain MLPs"
_SIBLINGS = (
    Sibling("model_type", "qwen2_vl", "Qwen2-VL", _WHOLE),
    Sibling("vlm_config.model_type", "qwen2_vl", "Qwen2-VL", _WHOLE),
)
# The class defaults of the vision part are those of all published models, and transformers 4.45 to 4.49 left them out.
_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_TRUNK = {"layers": "depth", "width": "hidden_size", "heads": "num_heads", "mlp": "intermediate_size"}


def read(config: Mapping[str, Any]) -> tuple[VisionConfig, LanguageConfig]:
    """Read the sizes from `config.json`, old (flat) and new (nested) layout, with and without class defaults.

    Raises `ExportError` listing every missing field and every setting that these towers do not have.
    """
    refuse_others("Qwen2.5-VL", config, _MODEL_TYPES, _SIBLINGS)
    config = completed(config.get("vlm_config", config), FAMILY.defaults)
    vision = config["vision_config"]
    language, problems = read_language(config)
    problems = unsized({f"vision_config.{name}": vision.get(name) for name in _VISION}) + problems
    problems += unknown((("vision_config", vision, "hidden_act", ("silu",)),))
    if not problems:
        problems += _unfit(vision)
    if language and vision["out_hidden_size"] != language.decoder.width:
        problems.append(
            f"vision_config.out_hidden_size is {vision['out_hidden_size']}, "
            f"the language model is {language.decoder.width} wide"
        )
    refuse("Qwen2.5-VL", problems)
    assert language is not None
    trunk = VisionTransformerConfig(
        **sizes(vision, _TRUNK),
        eps=1e-6,  # fixed in the published code, in no config
        activation="silu",
        norm="rms",
        gated=True,
        patch_bias=False,
        theta=vision_theta(vision),
        window=(vision["window_size"] // vision["patch_size"]) ** 2,
        full=tuple(vision["fullatt_block_indexes"]),
    )
    return VisionConfig(trunk, merge=vision["spatial_merge_size"], out=vision["out_hidden_size"]), language


def _unfit(vision: Mapping[str, Any]) -> list[str]:
    """Return what of the windows contradicts the rest."""
    factor, full = vision["patch_size"] * vision["spatial_merge_size"], vision["fullatt_block_indexes"]
    problems = []
    if vision["window_size"] % factor:
        problems.append(f"vision_config.window_size {vision['window_size']} is no multiple of {factor}")
    if any(not 0 <= block < vision["depth"] for block in full):
        problems.append(f"vision_config.fullatt_block_indexes {full} are not blocks of {vision['depth']}")
    return problems


def steps(config: Mapping[str, Any], recipe: Recipe) -> tuple[Step, ...]:
    """Return the vision encoder and the language model, without weights. Raises `ExportError` for an unfit config."""
    vision, language = read(config)
    image, bucket = recipe.preparation.page_policy, recipe.preparation.buckets.patches
    window = vision.trunk.window
    assert window is not None
    if (image.window * image.merge_size) ** 2 != window:
        size = round(window**0.5) * image.patch_size
        raise ExportError(
            f"recipe {recipe.name}: preparation.image.window_size is {image.window_size}, the checkpoint's vision "
            f"tower has windows of {size} pixels. Set preparation.image.window_size={size}."
        )
    if bucket % window:
        raise ExportError(
            f"recipe {recipe.name}: preparation.buckets.patches is {bucket}, and windows of {window} patches are never "
            f"cut. Set a multiple of {window}."
        )
    return towers(vision, language, recipe)


FAMILY = Family(
    steps=steps,
    width=lambda config: read(config)[1].decoder.width,
    image_token_id=lambda config: read(config)[1].decoder.image_token_id,
    rules=RULES,
    unused=UNUSED,
    leaves_out=("final_norm",),
    defaults={"vision_config": _VISION},
)
