"""PaliGemma: a SigLIP with a projection, and a Gemma.

Source: arXiv 2407.07726 (PaliGemma), 2303.15343 (SigLIP), 2403.08295 (Gemma), and the published weights. B rows,
P patches (one visual token each), C bytes a patch, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from periscope_export.errors import ExportError
from periscope_export.families import Family
from periscope_export.families.reading import (
    DECODER,
    Setting,
    Sibling,
    completed,
    refuse,
    refuse_others,
    rotations,
    sizes,
    ties,
    unknown,
    unsized,
)
from periscope_export.models.decoder import DecoderConfig, LanguageConfig, decoder_step
from periscope_export.models.layers import Linear
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.models.vision import VisionTransformer, VisionTransformerConfig
from periscope_export.recipes.schema import Recipe
from periscope_runtime.recipe import ImagePolicy

_MODEL_TYPES = ("paligemma", "colpali")
_GEMMA_2 = "its language model is a Gemma 2, with soft caps, sliding windows and norms before and after"
_SIBLINGS = (
    Sibling("text_config.model_type", "gemma2", "PaliGemma 2", _GEMMA_2),
    Sibling("vlm_config.text_config.model_type", "gemma2", "PaliGemma 2", _GEMMA_2),
)
# Names of sizes. But for `_DEFAULTS` without a default on purpose: those of the classes are other models'.
_DECODER = {**DECODER, "head": "head_dim"}
_TRUNK = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
    "eps": "layer_norm_eps",
}
# Defaults of the classes, GemmaConfig and SiglipVisionConfig. A head of 256 is never hidden / heads; the table of
# positions shows the side of an image.
_DEFAULTS = {
    "text_config": {"head_dim": 256, "rms_norm_eps": 1e-6},
    "vision_config": {"image_size": 224, "layer_norm_eps": 1e-6},
}
_THETA = 10000.0


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the SigLIP tower. `patch` and `side` of an image in pixels, `out` is the width of the language model."""

    trunk: VisionTransformerConfig
    patch: int
    side: int
    out: int


def read(config: Mapping[str, Any]) -> tuple[VisionConfig, LanguageConfig]:
    """Read the sizes from `config.json`: a PaliGemma's own, or nested in `vlm_config`.

    Raises `ExportError` listing every missing field and every setting that these towers do not have.
    """
    refuse_others("PaliGemma", config, _MODEL_TYPES, _SIBLINGS)
    config = completed(config.get("vlm_config", config), _DEFAULTS)
    text, vision = config["text_config"], config["vision_config"]
    rope = rotations(text)
    image_token_id = config.get("image_token_index", config.get("image_token_id"))
    values = {
        **{f"text_config.{name}": text.get(name) for name in _DECODER.values()},
        **{f"vision_config.{name}": vision.get(name) for name in (*_TRUNK.values(), "patch_size", "image_size")},
        "rope_theta": rope.get("rope_theta", _THETA),
        "image_token_index": image_token_id,
    }
    problems = unsized(values)
    problems += unknown(_settings(text, vision, rope))
    if not problems and vision["image_size"] % vision["patch_size"]:
        problems.append(f"vision_config.image_size {vision['image_size']} is no multiple of {vision['patch_size']}")
    refuse("PaliGemma", problems)
    trunk = VisionTransformerConfig(
        **sizes(vision, _TRUNK),
        activation="gelu_tanh",
        qkv="separate",
        table=(vision["image_size"] // vision["patch_size"]) ** 2,
        last_norm=True,
    )
    decoder = DecoderConfig(
        **sizes(text, _DECODER),
        image_token_id=values["image_token_index"],
        norm="rms_plus_one",
        activation="gelu_tanh",
        embedding_scale=text["hidden_size"] ** 0.5,
    )
    return (
        VisionConfig(trunk, patch=vision["patch_size"], side=vision["image_size"], out=text["hidden_size"]),
        LanguageConfig(decoder, float(values["rope_theta"]), axes=(0,) * (decoder.head // 2)),
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


# Names that transformers has for the parts of a SigLIP.
SIGLIP_RULES = (
    (r"^visual\.embeddings\.patch_embedding\.", "visual.patch_embed.proj."),
    (r"^visual\.embeddings\.position_embedding\.weight$", "visual.positions"),
    (r"^visual\.encoder\.layers\.", "visual.blocks."),
    (r"^(visual\.blocks\.\d+\.)layer_norm([12])\.", r"\1norm\2."),
    (r"^(visual\.blocks\.\d+\.)self_attn\.(?:out_(?=proj))?", r"\1attn."),
    (r"^visual\.post_layernorm\.", "visual.last_norm."),
)


class VisionEncoder(VisionTransformer):
    """Patches of one fixed grid to visual tokens, one a patch."""

    def __init__(self, config: VisionConfig, image: ImagePolicy) -> None:
        super().__init__(config.trunk, image)
        self.projector = nn.ModuleDict({"linear": Linear(config.trunk.width, config.out)})

    def forward(self, patches: Tensor) -> Tensor:
        """Map uint8 [B, 1, P, C], one image an item, row by row, to [B, P, H]."""
        tokens_BPH: Tensor = self.projector["linear"](self.last(self.embed(patches).squeeze(1)))
        return tokens_BPH


def steps(config: Mapping[str, Any], recipe: Recipe) -> tuple[Step, ...]:
    """Return the vision encoder and the language model, without weights. Raises `ExportError` for an unfit config."""
    vision, language = read(config)
    image = recipe.preparation.page_policy
    _check(vision, image)
    patches = vision.trunk.table
    assert patches is not None
    encoder = Step(
        name="vision_encoder",
        build=partial(VisionEncoder, vision, image),
        prefix="visual.",
        inputs=(TensorSpec("patches", "uint8", ("B", 1, patches, image.patch_dim)),),
        outputs=(TensorSpec("visual_tokens", "float", ("B", patches, vision.out)),),
        paths=recipe.visual_paths,
    )
    return encoder, decoder_step(language, vision.out, recipe)


def _check(vision: VisionConfig, image: ImagePolicy) -> None:
    """Raise `ExportError` unless the recipe's images are those that the table of positions was trained for."""
    wanted = {"patch_size": vision.patch, "temporal_patch_size": 1, "merge_size": 1, "side": vision.side}
    problems = [
        f"preparation.image.{name} is {found!r}, the checkpoint needs {value}"
        for name, value in wanted.items()
        if (found := getattr(image, name)) != value
    ]
    if image.tiles is not None:
        problems.append(
            "preparation.image.tiles makes several images of a page, and the vision encoder takes one an item"
        )
    if problems:
        raise ExportError(f"recipe: {'; '.join(problems)}. Use the preprocessor_config.json of the checkpoint.")


FAMILY = Family(
    steps=steps,
    width=lambda config: read(config)[1].decoder.width,
    image_token_id=lambda config: read(config)[1].decoder.image_token_id,
    rules=(
        # Models inside retrievers: `vlm.*` in transformers, `model.*` in colpali-engine, and an inner model in each.
        (r"^(?:vlm\.|model\.)+(?=vision_tower\.|multi_modal_projector\.|language_model\.|lm_head\.)", ""),
        # One level less since transformers 5 in SigLIP, since 4.52 in Gemma.
        (r"^vision_tower\.(?:vision_model\.)?", "visual."),
        (r"^multi_modal_projector\.", "visual.projector."),
        (r"^language_model\.model\.", "language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
        *SIGLIP_RULES,
    ),
    # A retriever has neither a language head nor SigLIP's pooling head; some old files store what is computed.
    unused=r"lm_head\.weight|visual\.head\..*|visual\.embeddings\.position_ids|.*\.rotary_emb\.inv_freq",
    leaves_out=("final_norm",),
    defaults=_DEFAULTS,
    tied=partial(ties, default=True),
)
