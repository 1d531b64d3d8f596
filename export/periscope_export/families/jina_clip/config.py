"""Sizes of a jina-clip, read from `config.json`.

The file holds those of the vision tower. Of the text tower it names the code that it was trained with, and what differs
from that code's own configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from periscope_export.families.reading import Sibling, completed, refuse, refuse_others, unsized

_MODEL_TYPES = ("jina_clip",)
_SIBLINGS = (
    Sibling(
        "text_config.hf_model_name_or_path",
        "jinaai/jina-embeddings-v3",
        "jina-clip-v2",
        "its text tower is an XLM-RoBERTa with rotary positions and adapters, its vision tower a larger one",
    ),
)
_VISION_FIELDS = ("image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "embed_dim")
# Of JinaCLIPVisionConfig, where they are those of the published model: transformers 4.45 to 4.49 leave them out of what
# they save. Shapes of weights show all of them but the width of a head.
DEFAULTS = {
    "vision_config": {
        "image_size": 224,
        "patch_size": 16,
        "width": 768,
        "layers": 12,
        "head_width": 64,
        "embed_dim": 768,
        "qkv_bias": True,
    }
}
# Settings of the vision tower with the only value that `eva02` computes. The other class defaults differ from the
# published model, so that a missing one is as wrong as another one.
_VISION_SETTINGS = {
    "rope_embeddings": True,
    "naive_swiglu": True,
    "subln": True,
    "qkv_bias": True,
}
_VISION_ABSENT = ("post_norm", "ls_init_value", "proj_type")

_TEXT_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "type_vocab_size",
    "layer_norm_eps",
)
# The text tower's own configuration, by the code that `hf_model_name_or_path` names. Source: config.json of
# jinaai/jina-bert-flash-implementation and of jinaai/jina-embeddings-v2-base-en.
_BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "vocab_size": 30528,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}
_FLASH = {**_BASE, "mlp_type": "glu"}
_TEXT_MODELS: dict[str, dict[str, Any]] = {
    "jinaai/jina-bert-flash-implementation": _FLASH,
    "jinaai/jina-bert-v2-base-en-flash": _FLASH,
    "jinaai/jina-bert-implementation": {**_BASE, "feed_forward_type": "geglu", "position_embedding_type": "alibi"},
    "jinaai/jina-embeddings-v2-base-en": {**_BASE, "feed_forward_type": "geglu", "position_embedding_type": "alibi"},
}
_TEXT_SETTINGS = {
    "hidden_act": "gelu",
    "mlp_type": "glu",
    "feed_forward_type": "geglu",
    "position_embedding_type": "alibi",
    "use_qk_norm": False,
}


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower. `grid` patches along a side, at the positions 0 to `span`, `span` excluded."""

    layers: int
    width: int
    heads: int
    mlp: int
    grid: int
    span: int
    eps: float = 1e-6  # fixed in the published code, in no config
    theta: float = 10000.0


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the text tower. `fused`: queries, keys and values are one stored weight."""

    layers: int
    width: int
    heads: int
    mlp: int
    vocabulary: int
    types: int
    eps: float
    fused: bool


def read_configs(config: Mapping[str, Any]) -> tuple[VisionConfig, TextConfig]:
    """Read the sizes from `config.json`.

    Raises `ExportError` listing every missing field and every setting that these towers do not have.
    """
    refuse_others("jina-clip-v1", config, _MODEL_TYPES, _SIBLINGS)
    vision, text = completed(config, DEFAULTS)["vision_config"], config.get("text_config") or {}
    problems = unsized({f"vision_config.{name}": vision.get(name) for name in _VISION_FIELDS})
    problems += [
        f"vision_config.{name} is {vision.get(name)!r}, not {wanted!r}"
        for name, wanted in _VISION_SETTINGS.items()
        if vision.get(name) != wanted
    ]
    problems += [f"vision_config.{name} is {vision[name]!r}, not null" for name in _VISION_ABSENT if vision.get(name)]
    if config.get("add_projections"):
        problems.append("add_projections is true")
    sizes = _text_sizes(text, problems)
    if not problems:
        problems += _misfits(vision, sizes)
    refuse("jina-clip", problems)
    grid = vision["image_size"] // vision["patch_size"]
    return (
        VisionConfig(
            layers=vision["layers"],
            width=vision["width"],
            heads=vision["width"] // vision["head_width"],
            mlp=int(vision["width"] * vision["mlp_ratio"]),
            grid=grid,
            span=_span(vision, grid),
        ),
        TextConfig(
            layers=sizes["num_hidden_layers"],
            width=sizes["hidden_size"],
            heads=sizes["num_attention_heads"],
            mlp=sizes["intermediate_size"],
            vocabulary=sizes["vocab_size"],
            types=sizes["type_vocab_size"],
            eps=sizes["layer_norm_eps"],
            fused=_TEXT_MODELS[text["hf_model_name_or_path"]] is _FLASH,
        ),
    )


def _text_sizes(text: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the text tower's own configuration with the changes of `hf_model_config_kwargs`; add what is wrong."""
    name = text.get("hf_model_name_or_path")
    if name not in _TEXT_MODELS:
        problems.append(f"text_config.hf_model_name_or_path is {name!r}, not one of {sorted(_TEXT_MODELS)}")
        return {}
    sizes = {**_TEXT_MODELS[name], **(text.get("hf_model_config_kwargs") or {})}
    problems += unsized({f"text_config.hf_model_config_kwargs.{key}": sizes[key] for key in _TEXT_SIZES})
    problems += [
        f"text_config.hf_model_config_kwargs.{key} is {sizes[key]!r}, not {wanted!r}"
        for key, wanted in _TEXT_SETTINGS.items()
        if sizes.get(key, wanted) != wanted
    ]
    if text.get("pooler_type") != "mean_pooler":
        problems.append(f"text_config.pooler_type is {text.get('pooler_type')!r}, not 'mean_pooler'")
    if text.get("proj_type"):
        problems.append(f"text_config.proj_type is {text['proj_type']!r}, not null")
    return sizes


def _span(vision: Mapping[str, Any], grid: int) -> int:
    """Positions run over the grid of the pretraining when they are interpolated to it, else over the image's own."""
    return int(vision.get("pt_hw_seq_len", 16)) if vision.get("intp_freq") else grid


def _misfits(vision: Mapping[str, Any], sizes: Mapping[str, Any]) -> list[str]:
    """Return what does not go together."""
    grid, found = vision["image_size"] // vision["patch_size"], vision.get("pt_hw_seq_len")
    problems = []
    # Without interpolation the published code has one angle for each patch of this grid, and stops at any other.
    if not vision.get("intp_freq") and found not in (None, grid):
        problems.append(f"vision_config.pt_hw_seq_len is {found}, and the image has {grid} x {grid} patches")
    if vision["embed_dim"] != vision["width"] or vision["width"] != sizes["hidden_size"]:
        problems.append(
            f"the towers' vectors differ in width: images {vision['width']} (embed_dim {vision['embed_dim']}), "
            f"texts {sizes['hidden_size']}"
        )
    return problems
