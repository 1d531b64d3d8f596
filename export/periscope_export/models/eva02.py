"""EVA02: a vision tower at one image size, whose norms, MLPs and rotations are its own.

Source: arXiv 2303.11331 and the published weights. Legend: B rows, P patches, C bytes a patch, S states (the class
token, then the patches), E width, A heads, U head width, F rotary frequencies (U / 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.models.layers import LayerNorm, Linear, Rotation, merge_heads, split_heads
from periscope_export.models.pixels import Pixels
from periscope_runtime.recipe import ImagePolicy


@dataclass(frozen=True)
class Eva02Config:
    """Sizes of an EVA02: `grid` patches along a side, at the positions 0 to `span`, `span` excluded."""

    layers: int
    width: int
    heads: int
    mlp: int
    grid: int
    span: int
    eps: float = 1e-6  # fixed in the published code, in no config
    theta: float = 10000.0


def rotate_pairs(x_BASU: Tensor, angles_SF: Tensor) -> Tensor:
    """Rotate the neighbours (2f, 2f + 1) by their angle f, in float32. (`layers.rotate` pairs halves.)"""
    cos, sin = angles_SF.cos(), angles_SF.sin()
    first, second = x_BASU.to(torch.float32).unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return rotated.flatten(-2).to(x_BASU.dtype)


def grid_angles(config: Eva02Config) -> Tensor:
    """Return float32 [S, F]: for each patch angles of its row, then of its column; none for the class token."""
    rotation = Rotation(config.width // config.heads // 2, config.theta)
    steps_G = torch.arange(config.grid, dtype=torch.float32, device="cpu") / config.grid * config.span
    positions_P2 = torch.cartesian_prod(steps_G, steps_G)
    return functional.pad(rotation.angles(positions_P2).flatten(-2), (0, 0, 1, 0))


class Eva02Attention(nn.Module):
    """Full attention; keys have no bias, and the heads' results are normalised together before they are mixed."""

    def __init__(self, config: Eva02Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = Linear(config.width, config.width)
        self.k_proj = Linear(config.width, config.width, bias=False)
        self.v_proj = Linear(config.width, config.width)
        self.inner_attn_ln = LayerNorm(config.width, config.eps)
        self.proj = Linear(config.width, config.width)

    def forward(self, x_BSE: Tensor, angles_SF: Tensor) -> Tensor:
        """Map [B, S, E] to [B, S, E]."""
        q = rotate_pairs(split_heads(self.q_proj(x_BSE), self.heads), angles_SF)
        k = rotate_pairs(split_heads(self.k_proj(x_BSE), self.heads), angles_SF)
        v = split_heads(self.v_proj(x_BSE), self.heads)
        attended = merge_heads(functional.scaled_dot_product_attention(q, k, v))
        mixed_BSE: Tensor = self.proj(self.inner_attn_ln(attended))
        return mixed_BSE


class Eva02Block(nn.Module):
    """Pre-norm block: attention, then a SwiGLU MLP that normalises its gated values."""

    def __init__(self, config: Eva02Config) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.width, config.eps)
        self.attn = Eva02Attention(config)
        self.norm2 = LayerNorm(config.width, config.eps)
        self.mlp = nn.ModuleDict(
            {
                "w1": Linear(config.width, config.mlp),
                "w2": Linear(config.width, config.mlp),
                "ffn_ln": LayerNorm(config.mlp, config.eps),
                "w3": Linear(config.mlp, config.width),
            }
        )

    def forward(self, x_BSE: Tensor, angles_SF: Tensor) -> Tensor:
        """Map [B, S, E] to [B, S, E]."""
        x_BSE = x_BSE + self.attn(self.norm1(x_BSE), angles_SF)
        normed = self.norm2(x_BSE)
        gated = functional.silu(self.mlp["w1"](normed)) * self.mlp["w2"](normed)
        return x_BSE + self.mlp["w3"](self.mlp["ffn_ln"](gated))


class Eva02(nn.Module):
    """Patches to the state of the class token, as a sequence of one state."""

    angles_SF: Tensor

    def __init__(self, config: Eva02Config, image: ImagePolicy) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": Linear(image.patch_dim, config.width)})
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + config.grid**2, config.width))
        self.blocks = nn.ModuleList(Eva02Block(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.width, config.eps)
        self.register_buffer("angles_SF", grid_angles(config), persistent=False)
        self.pixels = Pixels(image)

    def forward(self, patches: Tensor) -> Tensor:
        """Map uint8 [B, 1, P, C], one image an item, to [B, 1, E]."""
        patches_BPE = self.patch_embed["proj"](self.pixels(patches).to(self.cls_token.dtype).squeeze(1))
        cls_B1E = self.cls_token.expand(patches_BPE.shape[0], -1, -1)
        x_BSE = torch.cat((cls_B1E, patches_BPE), dim=1) + self.pos_embed
        for block in self.blocks:
            x_BSE = block(x_BSE, self.angles_SF)
        # Each state is normalised by itself, so that the others need not be.
        state_B1E: Tensor = self.norm(x_BSE[:, :1])
        return state_B1E
