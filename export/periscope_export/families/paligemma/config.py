"""Sizes of a PaliGemma, read from `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from periscope_export.families.reading import Setting, Sibling, completed, refuse, refuse_others, unknown, unsized

_MODEL_TYPES = ("paligemma", "colpali")
_GEMMA_2 = "its language model is a Gemma 2, with soft caps, sliding windows and norms before and after"
_SIBLINGS = (
    Sibling("text_config.model_type", "gemma2", "PaliGemma 2", _GEMMA_2),
    Sibling("vlm_config.text_config.model_type", "gemma2", "PaliGemma 2", _GEMMA_2),
)
# What the published configs spell out. Without a default on purpose: those of the classes are other models'.
_TEXT_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)
_VISION_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "patch_size",
    "image_size",
)
# What they leave to the classes, GemmaConfig and SiglipVisionConfig. A head of 256 is never hidden / heads; the table
# of positions shows the side of an image.
DEFAULTS = {
    "text_config": {"head_dim": 256, "rms_norm_eps": 1e-6},
    "vision_config": {"image_size": 224, "layer_norm_eps": 1e-6},
}
_THETA = 10000.0


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the SigLIP tower. `side` in pixels, `out` is the width of the language model."""

    layers: int
    width: int
    heads: int
    mlp: int
    out: int
    patch: int
    side: int
    eps: float

    @property
    def patches(self) -> int:
        """How many patches an image has: rows of the table of positions."""
        return (self.side // self.patch) ** 2


@dataclass(frozen=True)
class LanguageConfig:
    """Sizes of the Gemma."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int
    eps: float
    theta: float
    image_token_id: int


def read_configs(config: Mapping[str, Any]) -> tuple[VisionConfig, LanguageConfig]:
    """Read the sizes from `config.json`: a PaliGemma's own, or nested in `vlm_config`.

    Raises `ExportError` listing every missing field and every setting that these towers do not have.
    """
    refuse_others("PaliGemma", config, _MODEL_TYPES, _SIBLINGS)
    config = completed(config.get("vlm_config", config), DEFAULTS)
    text, vision = config["text_config"], config["vision_config"]
    rope = {**(text.get("rope_scaling") or {}), **(text.get("rope_parameters") or {})}
    image_token_id = config.get("image_token_index", config.get("image_token_id"))
    values = {
        **{f"text_config.{name}": text.get(name) for name in _TEXT_FIELDS},
        **{f"vision_config.{name}": vision.get(name) for name in _VISION_FIELDS},
        **{f"{part}.{name}": config[part].get(name) for part, fields in DEFAULTS.items() for name in fields},
        "rope_theta": rope.get("rope_theta", text.get("rope_theta", _THETA)),
        "image_token_index": image_token_id,
    }
    problems = unsized(values)
    problems += unknown(_settings(text, vision, rope))
    if not problems and vision["image_size"] % vision["patch_size"]:
        problems.append(f"vision_config.image_size {vision['image_size']} is no multiple of {vision['patch_size']}")
    refuse("PaliGemma", problems)
    return (
        VisionConfig(
            layers=vision["num_hidden_layers"],
            width=vision["hidden_size"],
            heads=vision["num_attention_heads"],
            mlp=vision["intermediate_size"],
            out=text["hidden_size"],
            patch=vision["patch_size"],
            side=vision["image_size"],
            eps=vision["layer_norm_eps"],
        ),
        LanguageConfig(
            layers=text["num_hidden_layers"],
            width=text["hidden_size"],
            heads=text["num_attention_heads"],
            kv_heads=text["num_key_value_heads"],
            head=text["head_dim"],
            mlp=text["intermediate_size"],
            vocabulary=text["vocab_size"],
            eps=text["rms_norm_eps"],
            theta=float(values["rope_theta"]),
            image_token_id=values["image_token_index"],
        ),
    )


def _settings(text: Mapping[str, Any], vision: Mapping[str, Any], rope: Mapping[str, Any]) -> tuple[Setting, ...]:
    """Return what the towers have of everything that a config may set."""
    return (
        ("text_config", text, "model_type", ("gemma",)),
        # The published code takes the legacy word "gelu" for the tanh form.
        ("text_config", text, "hidden_act", ("gelu_pytorch_tanh", "gelu")),
        ("text_config", text, "hidden_activation", (None, "gelu_pytorch_tanh")),
        ("text_config", text, "attention_bias", (False,)),
        ("text_config", text, "sliding_window", (None,)),
        ("text_config", text, "final_logit_softcapping", (None,)),
        ("vision_config", vision, "model_type", ("siglip_vision_model",)),
        ("vision_config", vision, "hidden_act", ("gelu_pytorch_tanh",)),
        ("vision_config", vision, "num_channels", (3,)),
        ("rope", rope, "type", ("default",)),
        ("rope", rope, "rope_type", ("default",)),
    )
