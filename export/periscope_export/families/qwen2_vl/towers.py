"""Qwen2-VL: vision tower and language model, batch first.

Source: arXiv 2409.12191 and the published weights. Legend: B items, G rows of images of an item, R all of these rows
(B * G), P patches of a row, C bytes a patch, M visual tokens of a row (P / 4), V of an item, T tokens, E vision width,
H hidden width, F rotary frequencies.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from periscope_export.families.qwen2_vl.config import LanguageConfig, VisionConfig
from periscope_export.models.blocks import DecoderBlock, VisionBlock
from periscope_export.models.layers import LayerNorm, Linear, MultiRotation, RMSNorm, Rotation, quick_gelu
from periscope_export.models.pixels import Pixels
from periscope_export.models.visual_tokens import in_order, place
from periscope_runtime.recipe import ImagePolicy


class VisionEncoder(nn.Module):
    """Patches to visual tokens."""

    def __init__(self, config: VisionConfig, image: ImagePolicy) -> None:
        super().__init__()
        self.merged = config.merge**2
        self.patch_embed = nn.ModuleDict({"proj": Linear(image.patch_dim, config.width, bias=False)})
        self.blocks = nn.ModuleList(
            VisionBlock(config.width, config.heads, config.mlp, config.eps, quick_gelu) for _ in range(config.layers)
        )
        self.merger = nn.ModuleDict(
            {
                "ln_q": LayerNorm(config.width, config.eps),
                "mlp": nn.ModuleDict(
                    {
                        "0": Linear(self.merged * config.width, self.merged * config.width),
                        "2": Linear(self.merged * config.width, config.out),
                    }
                ),
            }
        )
        # Half of the rotated pairs turn with the row of a patch, half with its column.
        self.rotation = Rotation(config.width // config.heads // 2, config.theta)
        self.pixels = Pixels(image)

    def forward(self, patches: Tensor, patch_positions: Tensor, patch_segments: Tensor, visual_index: Tensor) -> Tensor:
        """Map to [B, V, H].

        `patches` uint8 [B, G, P, C], `patch_positions` int32 [B, G, P, 2] (row, column), `patch_segments` int32
        [B, G, P] (image of the row, -1 = padding), `visual_index` int32 [B, V] (which of the G * M tokens, in order).
        """
        # Flattened as numbers: TensorRT reshapes no bytes.
        x_RPE = self.embed(patches).flatten(0, 1)
        angles_RPF = self.rotation.angles(patch_positions.flatten(0, 1)).flatten(-2)
        # Images never see each other. Padding sees padding, so that no row of the mask is empty.
        segments_RP = patch_segments.flatten(0, 1)
        mask_R1PP = (segments_RP.unsqueeze(-1) == segments_RP.unsqueeze(-2)).unsqueeze(1)
        for block in self.blocks:
            x_RPE = block(x_RPE, angles_RPF, mask_R1PP)
        return in_order(self.merge(x_RPE).unflatten(0, patches.shape[:2]), visual_index)

    def embed(self, patches: Tensor) -> Tensor:
        """Map uint8 [..., P, C] to [..., P, E]: what the first block reads."""
        proj = self.patch_embed["proj"]
        assert isinstance(proj, Linear)
        embedded: Tensor = proj(self.pixels(patches).to(proj.weight.dtype))
        return embedded

    def merge(self, x_RPE: Tensor) -> Tensor:
        """Map [R, P, E], which the last block gives, to visual tokens [R, M, H]."""
        x_RME = self.merger["ln_q"](x_RPE).unflatten(1, (-1, self.merged)).flatten(2)
        mlp = self.merger["mlp"]
        assert isinstance(mlp, nn.ModuleDict)
        tokens_RMH: Tensor = mlp["2"](functional.gelu(mlp["0"](x_RME)))
        return tokens_RMH


class LanguageModel(nn.Module):
    """Token ids, with visual tokens written over the image token, to the last states after the final norm.

    Causal, and padded on the right: no real token ever sees padding, so there is no mask.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.image_token_id = config.image_token_id
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        head = config.width // config.heads
        self.layers = nn.ModuleList(
            DecoderBlock(
                config.width,
                config.heads,
                config.kv_heads,
                head,
                config.mlp,
                config.eps,
                bias=True,
                head_norm=False,
            )
            for _ in range(config.layers)
        )
        self.norm = RMSNorm(config.width, config.eps)
        # M-RoPE: the first frequencies turn with the first row of positions, the next ones with the second.
        axes = [axis for axis, section in enumerate(config.sections) for _ in range(section)]
        self.rotation = MultiRotation(head, config.theta, axes)

    def forward(self, input_ids: Tensor, position_ids: Tensor, visual_tokens: Tensor) -> Tensor:
        """Map int32 [B, T], int32 [B, 3, T], [B, V, H] (V may be 0) to [B, T, H]."""
        x_BTH, _ = place(visual_tokens, self.embed_tokens(input_ids), input_ids == self.image_token_id)
        angles_BTF = self.rotation.angles(position_ids)
        for layer in self.layers:
            x_BTH = layer(x_BTH, angles_BTF)
        states_BTH: Tensor = self.norm(x_BTH)
        return states_BTH
