"""jina-clip: an EVA02 for images, a JinaBERT for texts, in one space.

`config.json` holds the sizes of the vision tower. Of the text tower it names the code that it was trained with, and
what differs from that code's own configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from periscope_export.errors import ExportError
from periscope_export.families import Family
from periscope_export.families.reading import Sibling, completed, refuse, refuse_others, unsized
from periscope_export.models.encoder import Encoder, EncoderConfig
from periscope_export.models.eva02 import Eva02, Eva02Config
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.recipes.schema import Recipe
from periscope_runtime.lengths import bucketed, visual_tokens
from periscope_runtime.paths import IMAGE, TEXT

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
_DEFAULTS = {
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
# Settings of the vision tower with the only value that `Eva02` computes. The other class defaults differ from the
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


def read(config: Mapping[str, Any]) -> tuple[Eva02Config, EncoderConfig]:
    """Read the sizes from `config.json`.

    Raises `ExportError` listing every missing field and every setting that these towers do not have.
    """
    refuse_others("jina-clip-v1", config, _MODEL_TYPES, _SIBLINGS)
    vision, text = completed(config, _DEFAULTS)["vision_config"], config.get("text_config") or {}
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
        Eva02Config(
            layers=vision["layers"],
            width=vision["width"],
            heads=vision["width"] // vision["head_width"],
            mlp=int(vision["width"] * vision["mlp_ratio"]),
            grid=grid,
            span=_span(vision, grid),
        ),
        EncoderConfig(
            layers=sizes["num_hidden_layers"],
            width=sizes["hidden_size"],
            heads=sizes["num_attention_heads"],
            mlp=sizes["intermediate_size"],
            vocabulary=sizes["vocab_size"],
            types=sizes["type_vocab_size"],
            eps=sizes["layer_norm_eps"],
            qkv="fused" if _TEXT_MODELS[text["hf_model_name_or_path"]] is _FLASH else "separate",
            gated=True,
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


def steps(config: Mapping[str, Any], recipe: Recipe) -> tuple[Step, ...]:
    """Return both towers, without weights. Raises `ExportError` for an unfit config."""
    vision, text = read(config)
    image, patches = recipe.preparation.page_policy, vision.grid**2
    _check(recipe, patches)
    return (
        Step(
            name="vision_encoder",
            build=partial(Eva02, vision, image),
            prefix="vision_model.",
            inputs=(TensorSpec("patches", "uint8", ("B", 1, patches, image.patch_dim)),),
            outputs=(TensorSpec("hidden_states", "float", ("B", 1, vision.width)),),
            paths=(IMAGE,),
        ),
        Step(
            name="text_encoder",
            build=partial(Encoder, text),
            prefix="text_model.",
            inputs=(
                TensorSpec("input_ids", "int32", ("B", "T")),
                TensorSpec("attention_mask", "int32", ("B", "T")),
            ),
            outputs=(TensorSpec("hidden_states", "float", ("B", "T", text.width)),),
            paths=(TEXT,),
        ),
    )


def _check(recipe: Recipe, patches: int) -> None:
    """Raise `ExportError` unless the recipe's attention is the text tower's, and preparation sends as many patches as
    the vision tower has positions for.
    """
    preparation = recipe.preparation
    if recipe.attention != "bidirectional":
        raise ExportError(
            f"recipe {recipe.name}: attention is {recipe.attention!r}, and the checkpoint's text tower is an encoder, "
            "whose tokens all see each other. Set attention=bidirectional."
        )
    sent = {bucketed(tokens, preparation.buckets.patches) for tokens in visual_tokens(preparation.page_policy)}
    if sent != {patches}:
        raise ExportError(
            f"recipe {recipe.name}: images have {', '.join(map(str, sorted(sent)))} patches after padding, and the "
            f"checkpoint's vision tower takes {patches}. Correct preparation.image and buckets.patches."
        )


FAMILY = Family(
    steps=steps,
    width=lambda config: read(config)[1].width,
    image_token_id=lambda config: None,
    # `vision_model.*` and `text_model.*`. The text tower's names are those of jinaai/jina-bert-flash-implementation;
    # the older jinaai/jina-bert-implementation calls the same weights as BERT does (source: the former's
    # convert_v2_weights.py).
    rules=(
        (r"^text_model\.transformer\.(bert\.)?", "text_model."),
        # Two biases that are stored beside their projections.
        (r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias"),
        (r"^(text_model\.encoder\.)layer\.", r"\1layers."),
        (r"^(text_model\.)embeddings\.LayerNorm\.", r"\1emb_ln."),
        (r"^(text_model\.encoder\.layers\.\d+\.)attention\.self\.", r"\1mixer."),
        (r"^(text_model\.encoder\.layers\.\d+\.)attention\.output\.dense\.", r"\1mixer.out_proj."),
        (r"^(text_model\.encoder\.layers\.\d+\.)attention\.output\.LayerNorm\.", r"\1norm1."),
        (r"^(text_model\.encoder\.layers\.\d+\.)mlp\.layernorm\.", r"\1norm2."),
    ),
    # Rotary tables are computed; a pooler and a classifier are parts of the towers' code that jina-clip does without.
    unused=(
        r"logit_scale|vision_model\.(blocks\.\d+\.attn\.)?rope\..*|vision_model\.head\..*|text_model\.pooler\..*"
        r"|text_model\.embeddings\.(position_ids|token_type_ids)"
    ),
    defaults=_DEFAULTS,
    embeddings="text_model.embeddings.word_embeddings.weight",
    language_head=None,
    tied=lambda config: False,
)
