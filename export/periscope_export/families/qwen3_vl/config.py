"""Sizes of a Qwen3-VL, read from `config.json`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from periscope_export.families.reading import Sibling, refuse, refuse_others, unknown, unsized

_MODEL_TYPES = ("qwen3_vl",)
_SIBLINGS = (
    Sibling(
        "model_type",
        "qwen3_vl_moe",
        "Qwen3-VL with experts",
        "its language model sends each token to a few of many MLPs",
    ),
)
# Without a default on purpose: the class defaults of the published code differ from the published models, and every
# version of transformers that knows Qwen3-VL (4.57 on) writes all of them.
_TEXT_FIELDS = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "rms_norm_eps",
)
_VISION_FIELDS = (
    "depth",
    "hidden_size",
    "num_heads",
    "intermediate_size",
    "out_hidden_size",
    "spatial_merge_size",
    "num_position_embeddings",
    "deepstack_visual_indexes",
)


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower.

    `width` is its own width, `out` that of the language model; `side` is the length of the square table of positions,
    `levels` are the blocks after which DeepStack takes the states.
    """

    layers: int
    width: int
    heads: int
    mlp: int
    out: int
    merge: int
    side: int
    levels: tuple[int, ...]
    theta: float
    eps: float = 1e-6  # fixed in the published code, in no config


@dataclass(frozen=True)
class LanguageConfig:
    """Sizes of the language model. `levels` counts the layers that DeepStack adds to, from the first on."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int
    eps: float
    theta: float
    sections: tuple[int, ...]
    levels: int
    image_token_id: int


def read_configs(config: Mapping[str, Any]) -> tuple[VisionConfig, LanguageConfig]:
    """Read the sizes from `config.json`.

    Raises `ExportError` listing every missing field and every setting that these towers do not have.
    """
    refuse_others("Qwen3-VL", config, _MODEL_TYPES, _SIBLINGS)
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    # Up to transformers 4 theta stands beside rope_scaling, from 5 on everything is in rope_parameters.
    rope = {**(text.get("rope_scaling") or {}), **(text.get("rope_parameters") or {})}
    values: dict[str, Any] = {
        **{f"text_config.{name}": text.get(name) for name in _TEXT_FIELDS},
        **{f"vision_config.{name}": vision.get(name) for name in _VISION_FIELDS},
        "text_config.rope_theta": rope.get("rope_theta", text.get("rope_theta")),
        "text_config.rope_scaling.mrope_section": rope.get("mrope_section"),
        "image_token_id": config.get("image_token_id"),
    }
    problems = unsized(values)
    fits = [] if problems else list(_unfit(text, vision, rope))
    problems += unknown(
        (
            ("text_config", text, "hidden_act", ("silu",)),
            ("text_config", text, "attention_bias", (False,)),
            ("vision_config", vision, "hidden_act", ("gelu_pytorch_tanh",)),
            ("vision_config", vision, "in_channels", (3,)),
            ("rope_scaling", rope, "rope_type", ("default",)),
            ("rope_scaling", rope, "mrope_interleaved", (True,)),
        )
    )
    problems += fits
    refuse("Qwen3-VL", problems)
    levels = tuple(vision["deepstack_visual_indexes"])
    return (
        VisionConfig(
            layers=vision["depth"],
            width=vision["hidden_size"],
            heads=vision["num_heads"],
            mlp=vision["intermediate_size"],
            out=vision["out_hidden_size"],
            merge=vision["spatial_merge_size"],
            side=math.isqrt(vision["num_position_embeddings"]),
            levels=levels,
            theta=(vision.get("rope_parameters") or {}).get("rope_theta", 10000.0),
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
            theta=values["text_config.rope_theta"],
            sections=tuple(rope["mrope_section"]),
            levels=len(levels),
            image_token_id=values["image_token_id"],
        ),
    )


def _unfit(text: Mapping[str, Any], vision: Mapping[str, Any], rope: Mapping[str, Any]) -> Iterator[str]:
    """Settings that contradict each other."""
    levels = vision["deepstack_visual_indexes"]
    if 2 * sum(rope["mrope_section"]) != text["head_dim"] or len(rope["mrope_section"]) != 3:
        yield f"mrope_section {rope['mrope_section']} is not three parts of half a head"
    # Rows have every third frequency from the second on, columns from the third on.
    elif any(3 * rope["mrope_section"][axis] - 3 + axis >= sum(rope["mrope_section"]) for axis in (1, 2)):
        yield f"mrope_section {rope['mrope_section']} gives rows or columns more than every third frequency"
    if vision["out_hidden_size"] != text["hidden_size"]:
        yield f"out_hidden_size is {vision['out_hidden_size']}, the language model is {text['hidden_size']} wide"
    if math.isqrt(vision["num_position_embeddings"]) ** 2 != vision["num_position_embeddings"]:
        yield f"num_position_embeddings {vision['num_position_embeddings']} is no square"
    if sorted(set(levels)) != list(levels) or any(not 0 <= level < vision["depth"] for level in levels):
        yield f"deepstack_visual_indexes {levels} are not ascending blocks of {vision['depth']}"
    if len(levels) > text["num_hidden_layers"]:
        yield f"deepstack_visual_indexes {levels} are more than the language model has layers"
