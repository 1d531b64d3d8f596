"""Qwen2-VL: vision tower and language model, batch first.

Source: arXiv 2409.12191 and the published weights. Legend: B rows, P patches, C bytes a patch, V visual tokens (P / 4),
T tokens, E vision width, H hidden width, N heads, D head width, F rotary frequencies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.backbones.qwen2_vl.config import LanguageConfig, VisionConfig
from periscope_export.layers import LayerNorm, Linear, RMSNorm, Rotation, merge_heads, quick_gelu, rotate, split_heads
from periscope_export.pixels import Pixels
from periscope_export.visual_tokens import place
from periscope_runtime.recipe import ImagePolicy


class VisionBlock(nn.Module):
    """Pre-norm block: attention inside a segment, then a quick-GELU MLP."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1 = LayerNorm(config.width, config.eps)
        self.norm2 = LayerNorm(config.width, config.eps)
        self.attn = nn.ModuleDict(
            {"qkv": Linear(config.width, 3 * config.width), "proj": Linear(config.width, config.width)}
        )
        self.mlp = nn.ModuleDict({"fc1": Linear(config.width, config.mlp), "fc2": Linear(config.mlp, config.width)})

    def forward(self, x_BPE: Tensor, angles_BPF: Tensor, mask_B1PP: Tensor) -> Tensor:
        """Map [B, P, E] to [B, P, E]."""
        q, k, v = (split_heads(x, self.heads) for x in self.attn["qkv"](self.norm1(x_BPE)).chunk(3, dim=-1))
        attended = functional.scaled_dot_product_attention(rotate(q, angles_BPF), rotate(k, angles_BPF), v, mask_B1PP)
        x_BPE = x_BPE + self.attn["proj"](merge_heads(attended))
        return x_BPE + self.mlp["fc2"](quick_gelu(self.mlp["fc1"](self.norm2(x_BPE))))


class VisionEncoder(nn.Module):
    """Patches to visual tokens."""

    def __init__(self, config: VisionConfig, image: ImagePolicy) -> None:
        super().__init__()
        self.merged = config.merge**2
        self.patch_embed = nn.ModuleDict({"proj": Linear(image.patch_dim, config.width, bias=False)})
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))
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

    def forward(self, patches: Tensor, patch_positions: Tensor, patch_segments: Tensor) -> Tensor:
        """Map uint8 [B, P, C], int32 [B, P, 2] (row, column), int32 [B, P] (frame, -1 = padding) to [B, V, H]."""
        x_BPE = self.embed(patches)
        angles_BPF = self.rotation.angles(patch_positions).flatten(-2)
        # Frames never see each other. Padding sees padding, so that no row of the mask is empty.
        mask_B1PP = (patch_segments.unsqueeze(-1) == patch_segments.unsqueeze(-2)).unsqueeze(1)
        for block in self.blocks:
            x_BPE = block(x_BPE, angles_BPF, mask_B1PP)
        return self.merge(x_BPE)

    def embed(self, patches: Tensor) -> Tensor:
        """Map uint8 [B, P, C] to [B, P, E]: what the first block reads."""
        proj = self.patch_embed["proj"]
        assert isinstance(proj, Linear)
        embedded_BPE: Tensor = proj(self.pixels(patches).to(proj.weight.dtype))
        return embedded_BPE

    def merge(self, x_BPE: Tensor) -> Tensor:
        """Map [B, P, E], which the last block gives, to visual tokens [B, V, H]."""
        x_BVE = self.merger["ln_q"](x_BPE).unflatten(1, (-1, self.merged)).flatten(2)
        mlp = self.merger["mlp"]
        assert isinstance(mlp, nn.ModuleDict)
        tokens_BVH: Tensor = mlp["2"](functional.gelu(mlp["0"](x_BVE)))
        return tokens_BVH


class LanguageBlock(nn.Module):
    """Pre-norm decoder block: causal attention with grouped keys, then a gated MLP."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        head = config.width // config.heads
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.input_layernorm = RMSNorm(config.width, config.eps)
        self.post_attention_layernorm = RMSNorm(config.width, config.eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": Linear(config.width, config.heads * head),
                "k_proj": Linear(config.width, config.kv_heads * head),
                "v_proj": Linear(config.width, config.kv_heads * head),
                "o_proj": Linear(config.heads * head, config.width, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": Linear(config.width, config.mlp, bias=False),
                "up_proj": Linear(config.width, config.mlp, bias=False),
                "down_proj": Linear(config.mlp, config.width, bias=False),
            }
        )

    def forward(self, x_BTH: Tensor, angles_BTF: Tensor) -> Tensor:
        """Map [B, T, H] to [B, T, H]."""
        normed = self.input_layernorm(x_BTH)
        q = rotate(split_heads(self.self_attn["q_proj"](normed), self.heads), angles_BTF)
        k = rotate(split_heads(self.self_attn["k_proj"](normed), self.kv_heads), angles_BTF)
        v = split_heads(self.self_attn["v_proj"](normed), self.kv_heads)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x_BTH = x_BTH + self.self_attn["o_proj"](merge_heads(attended))
        normed = self.post_attention_layernorm(x_BTH)
        gated = functional.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed)
        return x_BTH + self.mlp["down_proj"](gated)


class LanguageModel(nn.Module):
    """Token ids, with visual tokens written over the image token, to the last states after the final norm.

    Causal, and padded on the right: no real token ever sees padding, so there is no mask.
    """

    axis_F: Tensor

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.image_token_id = config.image_token_id
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(LanguageBlock(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.eps)
        self.rotation = Rotation(config.width // config.heads, config.theta)
        # M-RoPE: which of the three position rows turns each frequency.
        axis_F = torch.arange(len(config.sections), device="cpu").repeat_interleave(
            torch.tensor(config.sections, device="cpu")
        )
        self.register_buffer("axis_F", axis_F, persistent=False)

    def forward(self, input_ids: Tensor, position_ids: Tensor, visual_tokens: Tensor) -> Tensor:
        """Map int32 [B, T], int32 [B, 3, T], [B, V, H] (V may be 0) to [B, T, H]."""
        x_BTH = place(visual_tokens, self.embed_tokens(input_ids), input_ids == self.image_token_id)
        assert isinstance(self.rotation.frequencies_F, Tensor)
        positions_BTF = position_ids.to(torch.float32).index_select(1, self.axis_F).transpose(1, 2)
        angles_BTF = positions_BTF * self.rotation.frequencies_F
        for layer in self.layers:
            x_BTH = layer(x_BTH, angles_BTF)
        states_BTH: Tensor = self.norm(x_BTH)
        return states_BTH
