"""Qwen3-VL: a vision transformer with a table of positions and DeepStack, and a Qwen3.

Source: arXiv 2511.21631, 2406.04334 (DeepStack), and the published weights. B items, G rows of images of an item, R all
of these rows (B * G), P patches of a row, C bytes a patch, M visual tokens of a row (P / 4), V of an item, E vision
width, H hidden width, L levels of DeepStack.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.families import Family
from periscope_export.families.reading import (
    DECODER,
    Sibling,
    refuse,
    refuse_others,
    rotations,
    sizes,
    unknown,
    unsized,
    vision_theta,
)
from periscope_export.models.decoder import DecoderConfig, LanguageConfig, decoder_step
from periscope_export.models.layers import LayerNorm, Linear
from periscope_export.models.steps import Step
from periscope_export.models.vision import VisionTransformer, VisionTransformerConfig, vision_step
from periscope_export.models.visual_tokens import in_order
from periscope_export.recipes.schema import Recipe
from periscope_runtime.recipe import ImagePolicy

# The second is that of a Qwen3-VL with other code around it, whose config is the same.
_MODEL_TYPES = ("qwen3_vl", "qwen3_vl_nemotron_embed")
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
_DECODER = {**DECODER, "head": "head_dim"}
_TRUNK = {"layers": "depth", "width": "hidden_size", "heads": "num_heads", "mlp": "intermediate_size"}
_VISION_FIELDS = (
    *_TRUNK.values(),
    *("out_hidden_size", "spatial_merge_size", "num_position_embeddings", "deepstack_visual_indexes"),
)


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower. `merge` patches along a side become a visual token, `out` wide.

    `side` is the length of the square table of positions, `levels` are the blocks after which DeepStack takes the
    states.
    """

    trunk: VisionTransformerConfig
    merge: int
    out: int
    side: int
    levels: tuple[int, ...]


def read(config: Mapping[str, Any]) -> tuple[VisionConfig, LanguageConfig]:
    """Read the sizes from `config.json`.

    Raises `ExportError` listing every missing field and every setting that these towers do not have.
    """
    refuse_others("Qwen3-VL", config, _MODEL_TYPES, _SIBLINGS)
    text, vision = config.get("text_config") or {}, config.get("vision_config") or {}
    rope = rotations(text)
    values: dict[str, Any] = {
        **{f"text_config.{name}": text.get(name) for name in _DECODER.values()},
        **{f"vision_config.{name}": vision.get(name) for name in _VISION_FIELDS},
        "text_config.rope_theta": rope.get("rope_theta"),
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
    refuse("Qwen3-VL", problems + fits)
    trunk = VisionTransformerConfig(
        **sizes(vision, _TRUNK),
        eps=1e-6,  # fixed in the published code, in no config
        activation="gelu_tanh",
        theta=vision_theta(vision),
    )
    decoder = DecoderConfig(**sizes(text, _DECODER), image_token_id=values["image_token_id"], head_norm=True)
    return (
        VisionConfig(
            trunk,
            merge=vision["spatial_merge_size"],
            out=vision["out_hidden_size"],
            side=math.isqrt(vision["num_position_embeddings"]),
            levels=tuple(vision["deepstack_visual_indexes"]),
        ),
        LanguageConfig(decoder, values["text_config.rope_theta"], tuple(interleaved_axes(rope["mrope_section"]))),
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


def interleaved_axes(sections: Sequence[int]) -> list[int]:
    """Return which row of positions turns each frequency: 0 1 2 0 1 2 ..., and time (0) where a section is used up."""
    axes = [0] * sum(sections)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = [axis] * sections[axis]
    return axes


class PositionTable(nn.Module):
    """Learned positions on a square of `side` x `side`, stretched over the grid of an image, corner on corner."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.empty(side * side, width))

    def forward(self, positions: Tensor, grids: Tensor) -> Tensor:
        """Map int [R, P, 2] (row, column) and int [R, P, 2] (rows, columns of the image) to [R, P, E] in float32."""
        # A grid of one row lies on the first row of the table.
        places = positions.to(torch.float32) * (self.side - 1) / (grids - 1).clamp(min=1).to(torch.float32)
        # Padding may stand anywhere; it is brought into the table.
        places = places.clamp(0, self.side - 1)
        low = places.floor()
        shares, low = places - low, low.to(torch.int64)
        high = (low + 1).clamp(max=self.side - 1)
        taps = ((low, 1 - shares), (high, shares))
        embedded: Tensor | float = 0.0
        for row, row_share in taps:
            for column, column_share in taps:
                at = row[..., 0] * self.side + column[..., 1]
                share = row_share[..., 0] * column_share[..., 1]
                embedded = embedded + functional.embedding(at, self.weight).to(torch.float32) * share.unsqueeze(-1)
        assert isinstance(embedded, Tensor)
        return embedded


class Merger(nn.Module):
    """`merged` patches to one visual token. Normalised patch by patch, or ("joined") all of a token together."""

    def __init__(self, config: VisionConfig, joined: bool) -> None:
        super().__init__()
        self.merged, self.joined = config.merge**2, joined
        width = self.merged * config.trunk.width
        self.norm = LayerNorm(width if joined else config.trunk.width, config.trunk.eps)
        self.fc1 = Linear(width, width)
        self.fc2 = Linear(width, config.out)

    def forward(self, x_RPE: Tensor) -> Tensor:
        """Map [R, P, E] to [R, M, H]."""
        x = x_RPE if self.joined else self.norm(x_RPE)
        x = x.unflatten(1, (-1, self.merged)).flatten(2)
        x = self.norm(x) if self.joined else x
        tokens_RMH: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return tokens_RMH


class VisionEncoder(VisionTransformer):
    """Patches to visual tokens, each with its levels of DeepStack behind it."""

    def __init__(self, config: VisionConfig, image: ImagePolicy) -> None:
        super().__init__(config.trunk, image)
        self.levels = config.levels
        self.pos_embed = PositionTable(config.side, config.trunk.width)
        self.merger = Merger(config, joined=False)
        self.deepstack_merger_list = nn.ModuleList(Merger(config, joined=True) for _ in config.levels)

    def forward(
        self,
        patches: Tensor,
        patch_positions: Tensor,
        patch_grids: Tensor,
        patch_segments: Tensor,
        visual_index: Tensor,
    ) -> Tensor:
        """Map to [B, V, H * (1 + L)].

        `patches` uint8 [B, G, P, C], `patch_positions` int32 [B, G, P, 2] (row, column), `patch_grids` int32
        [B, G, P, 2] (rows and columns of the patch's image), `patch_segments` int32 [B, G, P] (image or pair of frames
        of the row, -1 = padding), `visual_index` int32 [B, V] (which of the G * M tokens, in order).
        """
        positions_RP2 = patch_positions.flatten(0, 1)
        # Flattened as numbers: TensorRT reshapes no bytes.
        x_RPE = self.embed(patches).flatten(0, 1)
        x_RPE = x_RPE + self.pos_embed(positions_RP2, patch_grids.flatten(0, 1)).to(x_RPE.dtype)
        levels: list[Tensor] = []
        blocks = self.states(x_RPE, self.angles(positions_RP2), patch_segments.flatten(0, 1))
        for index, x_RPE in enumerate(blocks):
            if index in self.levels:
                levels.append(self.deepstack_merger_list[len(levels)](x_RPE))
        tokens_RMW = torch.cat((self.merger(x_RPE), *levels), dim=-1)
        return in_order(tokens_RMW.unflatten(0, patches.shape[:2]), visual_index)


def steps(config: Mapping[str, Any], recipe: Recipe) -> tuple[Step, ...]:
    """Return the vision encoder and the language model, without weights. Raises `ExportError` for an unfit config."""
    vision, language = read(config)
    if not recipe.deepstack:
        vision = replace(vision, levels=())
    # A visual token and, behind it, what DeepStack adds to the first layers at its place.
    visual_width = vision.out * (1 + len(vision.levels))
    build = partial(VisionEncoder, vision, recipe.preparation.page_policy)
    unused = "" if recipe.deepstack else r"visual\.deepstack_merger_list\..*"
    encoder = vision_step(build, "4P", visual_width, recipe, grids=True, unused=unused)
    return encoder, decoder_step(language, visual_width, recipe)


FAMILY = Family(
    steps=steps,
    width=lambda config: read(config)[1].decoder.width,
    image_token_id=lambda config: read(config)[1].decoder.image_token_id,
    rules=(
        # `model.visual.*` and `model.language_model.*` in published files, less the `model.` where the inner model is
        # saved.
        (r"^model\.(visual|language_model)\.", r"\1."),
        # The two halves of an MLP are called as in the other towers.
        (r"^(visual\..*)\.linear_(fc[12])\.", r"\1.\2."),
    ),
    # A retriever has no language head; a reranker reads the rows that it scores with by themselves.
    unused=r"lm_head\.weight|.*\.(rotary_emb|rotary_pos_emb)\.inv_freq",
    leaves_out=("final_norm", "deepstack"),
)
