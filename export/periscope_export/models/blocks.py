"""The two transformer blocks that the Qwen families are made of, batch first; a family's settings are arguments.

Legend: B rows, P patches, T tokens, E vision width, H hidden width, N heads, D head width, F rotary frequencies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.models.kept_prefixes import Kept
from periscope_export.models.layers import LayerNorm, Linear, RMSNorm, merge_heads, rotate, split_heads


class VisionBlock(nn.Module):
    """Pre-norm block: attention with rotated queries and keys where the mask allows it, then an MLP."""

    def __init__(self, width: int, heads: int, mlp: int, eps: float, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.heads, self.activation = heads, activation
        self.norm1 = LayerNorm(width, eps)
        self.norm2 = LayerNorm(width, eps)
        self.attn = nn.ModuleDict({"qkv": Linear(width, 3 * width), "proj": Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": Linear(width, mlp), "fc2": Linear(mlp, width)})

    def forward(self, x_BPE: Tensor, angles_BPF: Tensor, mask_B1PP: Tensor) -> Tensor:
        """Map [B, P, E] to [B, P, E]."""
        q, k, v = (split_heads(x, self.heads) for x in self.attn["qkv"](self.norm1(x_BPE)).chunk(3, dim=-1))
        attended = functional.scaled_dot_product_attention(rotate(q, angles_BPF), rotate(k, angles_BPF), v, mask_B1PP)
        x_BPE = x_BPE + self.attn["proj"](merge_heads(attended))
        return x_BPE + self.mlp["fc2"](self.activation(self.mlp["fc1"](self.norm2(x_BPE))))


class DecoderBlock(nn.Module):
    """Pre-norm decoder block: causal attention with grouped keys, then a gated MLP.

    `bias` is that of the query, key and value projections; with `head_norm` each head of queries and keys is normalised
    before it is rotated.
    """

    def __init__(
        self, width: int, heads: int, kv_heads: int, head: int, mlp: int, eps: float, *, bias: bool, head_norm: bool
    ) -> None:
        super().__init__()
        self.head, self.grouped, self.head_norm = head, heads != kv_heads, head_norm
        self.input_layernorm = RMSNorm(width, eps)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": Linear(width, heads * head, bias=bias),
                "k_proj": Linear(width, kv_heads * head, bias=bias),
                "v_proj": Linear(width, kv_heads * head, bias=bias),
                "o_proj": Linear(heads * head, width, bias=False),
            }
        )
        if head_norm:
            self.self_attn.update({"q_norm": RMSNorm(head, eps), "k_norm": RMSNorm(head, eps)})
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": Linear(width, mlp, bias=False),
                "up_proj": Linear(width, mlp, bias=False),
                "down_proj": Linear(mlp, width, bias=False),
            }
        )

    def heads(self, x_BTH: Tensor, angles_BTF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map [B, T, H] to queries, keys and values [B, N, T, D], the first two rotated."""
        normed = self.input_layernorm(x_BTH)
        q, k, v = (self.self_attn[f"{name}_proj"](normed).unflatten(-1, (-1, self.head)) for name in "qkv")
        if self.head_norm:
            q, k = self.self_attn["q_norm"](q), self.self_attn["k_norm"](k)
        # Transposed after the norms, which do not mind: engines then transpose as they rotate.
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return rotate(q, angles_BTF), rotate(k, angles_BTF), v

    def forward(self, x_BTH: Tensor, angles_BTF: Tensor, kept: Kept | None = None) -> Tensor:
        """Map [B, T, H] to [B, T, H]; `kept` is what comes before these tokens."""
        q, k, v = self.heads(x_BTH, angles_BTF)
        mask_TS = None
        if kept is not None:
            k, v, mask_TS = torch.cat((kept.keys_BNKD, k), 2), torch.cat((kept.values_BNKD, v), 2), kept.mask_TS
        # The exporter refuses groups of one.
        attended = functional.scaled_dot_product_attention(
            q, k, v, mask_TS, is_causal=kept is None, enable_gqa=self.grouped
        )
        x_BTH = x_BTH + self.self_attn["o_proj"](merge_heads(attended))
        normed = self.post_attention_layernorm(x_BTH)
        gated = functional.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed)
        return x_BTH + self.mlp["down_proj"](gated)
