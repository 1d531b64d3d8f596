"""Qwen2-VL: a vision transformer over any grid of patches, and a Qwen2. Source: arXiv 2409.12191, published weights.

B items, G rows of images of an item, R all of these rows (B * G), P patches of a row, C bytes a patch, M visual tokens
of a row, V of an item, E vision width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from periscope_export.families import Family
from periscope_export.families.reading import (
    DECODER,
    Sibling,
    completed,
    refuse,
    refuse_others,
    rotations,
    sizes,
    unknown,
    unsized,
    vision_theta,
)
from periscope_export.models.decoder import DecoderConfig, LanguageConfig, decoder_step
from periscope_export.models.layers import Linear, contiguous_axes
from periscope_export.models.steps import Step
from periscope_export.models.vision import NORMS, VisionTransformer, VisionTransformerConfig, vision_step
from periscope_export.models.visual_tokens import in_order
from periscope_export.recipes.schema import Recipe
from periscope_runtime.recipe import ImagePolicy

_MODEL_TYPES = ("qwen2_vl", "colqwen2")
_WINDOWS = "its vision tower attends within windows, and has RMS norms and gated MLPs"
_SIBLINGS = (
    Sibling("model_type", "qwen2_5_vl", "Qwen2.5-VL", _WINDOWS),
    Sibling("vlm_config.model_type", "qwen2_5_vl", "Qwen2.5-VL", _WINDOWS),
)
# The class defaults of the vision part are those of all published models, and transformers 4.45 to 4.49 left them out.
# Shapes of weights show all of them but the number of heads.
_VISION = {
    "depth": 32,
    "embed_dim": 1280,
    "num_heads": 16,
    "mlp_ratio": 4,
    "hidden_size": 3584,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
RULES = (
    # The whole model inside a retriever of transformers: vlm.*
    (r"^vlm\.", ""),
    # New modules, with and without the outer model.
    (r"^model\.(visual|language_model)\.", r"\1."),
    (r"^language_model\.model\.", "language_model."),
    # The published files: model.layers.*, and the same from a retriever that is the inner model.
    (r"^(?:model\.)?(layers|embed_tokens|norm)\.", r"language_model.\1."),
)
# The language head is not part of a retriever; rotary frequencies are computed, some old files store them.
UNUSED = r"lm_head\.weight|.*\.(rotary_emb|rotary_pos_emb)\.inv_freq"


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower. `merge` patches along a side become a visual token, `out` wide."""

    trunk: VisionTransformerConfig
    merge: int
    out: int


def read(config: Mapping[str, Any]) -> tuple[VisionConfig, LanguageConfig]:
    """Read the sizes from `config.json`, old (flat) and new (nested) layout, with and without class defaults.

    Raises `ExportError` listing every missing field and every setting that these towers do not have.
    """
    refuse_others("Qwen2-VL", config, _MODEL_TYPES, _SIBLINGS)
    config = completed(config.get("vlm_config", config), FAMILY.defaults)
    vision = config["vision_config"]
    language, problems = read_language(config)
    problems = unsized({f"vision_config.{name}": vision.get(name) for name in _VISION}) + problems
    problems += unknown((("vision_config", vision, "hidden_act", ("quick_gelu",)),))
    if language and vision["hidden_size"] != language.decoder.width:
        problems.append(
            f"vision_config.hidden_size is {vision['hidden_size']}, the language model is {language.decoder.width} wide"
        )
    refuse("Qwen2-VL", problems)
    assert language is not None
    trunk = VisionTransformerConfig(
        layers=vision["depth"],
        width=vision["embed_dim"],
        heads=vision["num_heads"],
        mlp=int(vision["embed_dim"] * vision["mlp_ratio"]),
        eps=1e-6,  # fixed in the published code, in no config
        activation="quick_gelu",
        patch_bias=False,
        theta=vision_theta(vision),
    )
    return VisionConfig(trunk, merge=vision["spatial_merge_size"], out=vision["hidden_size"]), language


def read_language(config: Mapping[str, Any]) -> tuple[LanguageConfig | None, list[str]]:
    """Read the sizes of the Qwen2, or what is wrong with them."""
    text = {**config, **(config.get("text_config") or {})}
    rope = rotations(text)
    # Without a default on purpose: the class defaults of the published code differ from the published models.
    values: dict[str, Any] = {
        **{f"text.{name}": text.get(name) for name in DECODER.values()},
        "rope_theta": rope.get("rope_theta"),
        "rope.mrope_section": rope.get("mrope_section"),
        "image_token_id": config.get("image_token_id"),
    }
    problems = unsized(values)
    problems += unknown(
        (
            ("text", text, "hidden_act", ("silu",)),
            ("text", text, "use_sliding_window", (False,)),
            ("rope", rope, "type", ("mrope", "default")),
            ("rope", rope, "rope_type", ("mrope", "default")),
        )
    )
    if not problems and 2 * sum(rope["mrope_section"]) * text["num_attention_heads"] != text["hidden_size"]:
        problems.append(f"rope.mrope_section {rope['mrope_section']} does not sum to half a head")
    if problems:
        return None, problems
    decoder = DecoderConfig(
        **sizes(text, DECODER),
        head=text["hidden_size"] // text["num_attention_heads"],
        image_token_id=values["image_token_id"],
        qkv_bias=True,
    )
    return LanguageConfig(decoder, values["rope_theta"], tuple(contiguous_axes(rope["mrope_section"]))), []


class VisionEncoder(VisionTransformer):
    """Patches to visual tokens: the neighbours of a square, joined and mapped to the language model's width."""

    def __init__(self, config: VisionConfig, image: ImagePolicy) -> None:
        super().__init__(config.trunk, image)
        self.merged = config.merge**2
        joined = self.merged * config.trunk.width
        self.merger = nn.ModuleDict(
            {
                "ln_q": NORMS[config.trunk.norm](config.trunk.width, config.trunk.eps),
                "mlp": nn.ModuleDict({"0": Linear(joined, joined), "2": Linear(joined, config.out)}),
            }
        )

    def forward(self, patches: Tensor, patch_positions: Tensor, patch_segments: Tensor, visual_index: Tensor) -> Tensor:
        """Map to [B, V, H].

        `patches` uint8 [B, G, P, C], `patch_positions` int32 [B, G, P, 2] (row, column), `patch_segments` int32
        [B, G, P] (image of the row, -1 = padding), `visual_index` int32 [B, V] (which of the G * M tokens, in order).
        """
        # Flattened as numbers: TensorRT reshapes no bytes.
        x_RPE = self.embed(patches).flatten(0, 1)
        x_RPE = self.last(x_RPE, self.angles(patch_positions.flatten(0, 1)), patch_segments.flatten(0, 1))
        return in_order(self.merge(x_RPE).unflatten(0, patches.shape[:2]), visual_index)

    def merge(self, x_RPE: Tensor) -> Tensor:
        """Map [R, P, E], which the last block gives, to visual tokens [R, M, H]."""
        x_RME = self.merger["ln_q"](x_RPE).unflatten(1, (-1, self.merged)).flatten(2)
        mlp = self.merger["mlp"]
        assert isinstance(mlp, nn.ModuleDict)
        tokens_RMH: Tensor = mlp["2"](functional.gelu(mlp["0"](x_RME)))
        return tokens_RMH


def steps(config: Mapping[str, Any], recipe: Recipe) -> tuple[Step, ...]:
    """Return the vision encoder and the language model, without weights. Raises `ExportError` for an unfit config."""
    return towers(*read(config), recipe)


def towers(vision: VisionConfig, language: LanguageConfig, recipe: Recipe) -> tuple[Step, ...]:
    """Return the steps of these sizes."""
    # Windows are never cut.
    patches = "4P" if vision.trunk.window is None else f"{vision.trunk.window}W"
    encoder = vision_step(partial(VisionEncoder, vision, recipe.preparation.page_policy), patches, vision.out, recipe)
    return encoder, decoder_step(language, vision.out, recipe)


FAMILY = Family(
    steps=steps,
    width=lambda config: read(config)[1].decoder.width,
    image_token_id=lambda config: read(config)[1].decoder.image_token_id,
    rules=RULES,
    unused=UNUSED,
    leaves_out=("final_norm",),
    defaults={"vision_config": _VISION},
)
