"""Qwen3-VL: vision tower and language model, batch first.

Source: arXiv 2511.21631 and the published weights. Legend: B items, G rows of images of an item, R all of these rows
(B * G), P patches of a row, C bytes a patch, M visual tokens of a row (P / 4), V of an item, T tokens, E vision width,
H hidden width, F rotary frequencies, L levels of DeepStack (arXiv 2406.04334), K tokens of a prefix, N heads,
D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.families.qwen3_vl.config import LanguageConfig, VisionConfig
from periscope_export.models.blocks import DecoderBlock, VisionBlock
from periscope_export.models.kept_prefixes import Kept, KeptPrefixes
from periscope_export.models.layers import LayerNorm, Linear, MultiRotation, RMSNorm, Rotation
from periscope_export.models.pixels import Pixels
from periscope_export.models.visual_tokens import in_order, place
from periscope_runtime.recipe import ImagePolicy


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
        width = self.merged * config.width
        self.norm = LayerNorm(width if joined else config.width, config.eps)
        self.fc1 = Linear(width, width)
        self.fc2 = Linear(width, config.out)

    def forward(self, x_RPE: Tensor) -> Tensor:
        """Map [R, P, E] to [R, M, H]."""
        x = x_RPE if self.joined else self.norm(x_RPE)
        x = x.unflatten(1, (-1, self.merged)).flatten(2)
        x = self.norm(x) if self.joined else x
        tokens_RMH: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return tokens_RMH


class VisionEncoder(nn.Module):
    """Patches to visual tokens, each with its levels of DeepStack behind it."""

    def __init__(self, config: VisionConfig, image: ImagePolicy) -> None:
        super().__init__()
        self.levels = config.levels
        self.patch_embed = nn.ModuleDict({"proj": Linear(image.patch_dim, config.width)})
        self.pos_embed = PositionTable(config.side, config.width)
        gelu = partial(functional.gelu, approximate="tanh")
        self.blocks = nn.ModuleList(
            VisionBlock(config.width, config.heads, config.mlp, config.eps, gelu) for _ in range(config.layers)
        )
        self.merger = Merger(config, joined=False)
        self.deepstack_merger_list = nn.ModuleList(Merger(config, joined=True) for _ in config.levels)
        # Half of the rotated pairs turn with the row of a patch, half with its column.
        self.rotation = Rotation(config.width // config.heads // 2, config.theta)
        self.pixels = Pixels(image)

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
        proj = self.patch_embed["proj"]
        assert isinstance(proj, Linear)
        dtype = proj.weight.dtype
        positions_RP2, grids_RP2 = patch_positions.flatten(0, 1), patch_grids.flatten(0, 1)
        # Flattened as numbers: TensorRT reshapes no bytes.
        x_RPE = proj(self.pixels(patches).to(dtype).flatten(0, 1)) + self.pos_embed(positions_RP2, grids_RP2).to(dtype)
        angles_RPF = self.rotation.angles(positions_RP2).flatten(-2)
        # Images and pairs of frames never see each other. Padding sees padding, so that no row of the mask is empty.
        segments_RP = patch_segments.flatten(0, 1)
        mask_R1PP = (segments_RP.unsqueeze(-1) == segments_RP.unsqueeze(-2)).unsqueeze(1)
        levels: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x_RPE = block(x_RPE, angles_RPF, mask_R1PP)
            if index in self.levels:
                levels.append(self.deepstack_merger_list[len(levels)](x_RPE))
        tokens_RMW = torch.cat((self.merger(x_RPE), *levels), dim=-1)
        return in_order(tokens_RMW.unflatten(0, patches.shape[:2]), visual_index)


class LanguageModel(nn.Module):
    """Token ids, with visual tokens written over the image token, to the last states after the final norm.

    Level i of DeepStack is added to what layer i gives, at the image tokens. Causal, and padded on the right: no real
    token ever sees padding, so there is no mask.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.image_token_id = config.image_token_id
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(
            DecoderBlock(
                config.width,
                config.heads,
                config.kv_heads,
                config.head,
                config.mlp,
                config.eps,
                bias=False,
                head_norm=True,
            )
            for _ in range(config.layers)
        )
        self.norm = RMSNorm(config.width, config.eps)
        self.rotation = MultiRotation(config.head, config.theta, interleaved_axes(config.sections))
        self.prefixes: KeptPrefixes | None = None

    def keep(self, prefixes: Sequence[Tensor]) -> None:
        """Compute keys and values of prefixes of text, ids [K] each; `forward` takes `prefix_index` from then on."""
        self.prefixes = KeptPrefixes([self._keys_and_values(ids_K) for ids_K in prefixes])

    def _keys_and_values(self, ids_K: Tensor) -> list[tuple[Tensor, Tensor]]:
        x_1KH = self.embed_tokens(ids_K).unsqueeze(0)
        angles_1KF = self.rotation.angles(torch.arange(len(ids_K)).expand(1, 3, -1))
        found = []
        for layer in self.layers:
            assert isinstance(layer, DecoderBlock)
            _, keys_1NKD, values_1NKD = layer.heads(x_1KH, angles_1KF)
            found.append((keys_1NKD, values_1NKD))
            x_1KH = layer(x_1KH, angles_1KF)
        return found

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, visual_tokens: Tensor, prefix_index: Tensor | None = None
    ) -> Tensor:
        """Map int32 [B, T], int32 [B, 3, T], [B, V, H * (1 + L)] (V may be 0) to [B, T, H].

        `prefix_index` int32 [B, K] of a model that keeps prefixes: which of their tokens come before.
        """
        x_BTH, levels = place(visual_tokens, self.embed_tokens(input_ids), input_ids == self.image_token_id)
        angles_BTF = self.rotation.angles(position_ids)
        kept: Sequence[Kept | None] = [None] * len(self.layers)
        if prefix_index is not None:
            assert self.prefixes is not None
            kept = self.prefixes(prefix_index, input_ids.shape[1])
        for index, (layer, before) in enumerate(zip(self.layers, kept, strict=True)):
            x_BTH = layer(x_BTH, angles_BTF, before)
            if index < len(levels):
                x_BTH = x_BTH + levels[index]
        states_BTH: Tensor = self.norm(x_BTH)
        return states_BTH


def interleaved_axes(sections: tuple[int, ...]) -> list[int]:
    """Return which row of positions turns each frequency: 0 1 2 0 1 2 ..., and time (0) where a section is used up."""
    axes = [0] * sum(sections)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = [axis] * sections[axis]
    return axes
