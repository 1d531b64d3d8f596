"""Sizes of a Qwen2-VL, read from `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from periscope_export.families.reading import Sibling, completed, refuse, refuse_others, unknown, unsized

_MODEL_TYPES = ("qwen2_vl", "colqwen2")
_WINDOWS = "its vision tower attends within windows, and has RMS norms and gated MLPs"
_SIBLINGS = (
    Sibling("model_type", "qwen2_5_vl", "Qwen2.5-VL", _WINDOWS),
    Sibling("vlm_config.model_type", "qwen2_5_vl", "Qwen2.5-VL", _WINDOWS),
)
# Without a default on purpose: the class defaults of the published code differ from the published models.
_TEXT_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
    "rms_norm_eps",
)
# The class defaults of the vision part are those of all published models, and transformers 4.45 to 4.49 left them out.
# Shapes of weights show all of them but the number of heads.
DEFAULTS = {
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "num_heads": 16,
        "mlp_ratio": 4,
        "hidden_size": 3584,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
    }
}


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower. `width` is its own width, `out` that of the language model."""

    layers: int
    width: int
    heads: int
    mlp: int
    out: int
    merge: int
    theta: float
    eps: float = 1e-6  # fixed in the published code, in no config


@dataclass(frozen=True)
class LanguageConfig:
    """Sizes of the language model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    eps: float
    theta: float
    sections: tuple[int, ...]
    image_token_id: int


def read_configs(config: Mapping[str, Any]) -> tuple[VisionConfig, LanguageConfig]:
    """Read the sizes from `config.json`, old (flat) and new (nested) layout, with and without class defaults.

    Raises `ExportError` listing every missing field and every setting that these towers do not have.
    """
    refuse_others("Qwen2-VL", config, _MODEL_TYPES, _SIBLINGS)
    config = completed(config.get("vlm_config", config), DEFAULTS)
    text, vision = {**config, **(config.get("text_config") or {})}, config["vision_config"]
    rope = {**(text.get("rope_scaling") or {}), **(text.get("rope_parameters") or {})}
    values = {
        **{f"text.{name}": text.get(name) for name in _TEXT_FIELDS},
        **{f"vision_config.{name}": vision.get(name) for name in DEFAULTS["vision_config"]},
        "rope_theta": rope.get("rope_theta", text.get("rope_theta")),
        "rope.mrope_section": rope.get("mrope_section"),
        "image_token_id": config.get("image_token_id"),
    }
    problems = unsized(values)
    problems += unknown(
        (
            ("text", text, "hidden_act", ("silu",)),
            ("text", text, "use_sliding_window", (False,)),
            ("vision_config", vision, "hidden_act", ("quick_gelu",)),
            ("rope", rope, "type", ("mrope", "default")),
            ("rope", rope, "rope_type", ("mrope", "default")),
        )
    )
    if not problems and 2 * sum(rope["mrope_section"]) * text["num_attention_heads"] != text["hidden_size"]:
        problems.append(f"rope.mrope_section {rope['mrope_section']} does not sum to half a head")
    if not problems and vision["hidden_size"] != text["hidden_size"]:
        problems.append(
            f"vision_config.hidden_size is {vision['hidden_size']}, the language model is {text['hidden_size']} wide"
        )
    refuse("Qwen2-VL", problems)
    return (
        VisionConfig(
            layers=vision["depth"],
            width=vision["embed_dim"],
            heads=vision["num_heads"],
            mlp=int(vision["embed_dim"] * vision["mlp_ratio"]),
            out=vision["hidden_size"],
            merge=vision["spatial_merge_size"],
            theta=(vision.get("rope_parameters") or {}).get("rope_theta", 10000.0),
        ),
        LanguageConfig(
            layers=text["num_hidden_layers"],
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            mlp=text["intermediate_size"],
            vocabulary=text["vocab_size"],
            eps=text["rms_norm_eps"],
            theta=values["rope_theta"],
            sections=tuple(values["rope.mrope_section"]),
            image_token_id=values["image_token_id"],
        ),
    )
