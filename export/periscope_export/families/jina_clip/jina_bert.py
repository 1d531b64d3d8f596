"""JinaBERT: the text tower, a BERT with linear biases for distances (ALiBi) and gated MLPs.

Source: arXiv 2310.19923 and the published weights. Legend: B rows, T tokens, H width, N heads, D head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.families.jina_clip.config import TextConfig
from periscope_export.models.layers import LayerNorm, Linear, merge_heads, split_heads

# What padding keys get: beside a real key, and every row sees one, they weigh exactly nothing. Not as low as float16
# allows, so that sums with it stay far from its limits.
_PADDING = -1e4


def slopes(heads: int) -> list[float]:
    """Return how fast each head forgets: a geometric row for a power of two, else every second of the next one more.

    >>> slopes(6)
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    power = 2 ** int(math.log2(heads))
    row = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return row if power == heads else row + slopes(2 * power)[::2][: heads - power]


class Attention(nn.Module):
    """Full attention; stored with one weight for queries, keys and values, or with three."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        names = ["Wqkv"] if config.fused else ["query", "key", "value"]
        for name in names:
            self.add_module(name, Linear(config.width, 3 * config.width // len(names)))
        self.names = tuple(names)
        self.out_proj = Linear(config.width, config.width)

    def forward(self, x_BTH: Tensor, bias_BNTT: Tensor) -> Tensor:
        """Map [B, T, H] to [B, T, H]."""
        joined = torch.cat([self.get_submodule(name)(x_BTH) for name in self.names], dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in joined.chunk(3, dim=-1))
        attended = functional.scaled_dot_product_attention(q, k, v, bias_BNTT)
        mixed_BTH: Tensor = self.out_proj(merge_heads(attended))
        return mixed_BTH


class Block(nn.Module):
    """Post-norm block: attention, then an MLP whose first half is activated and gates the second."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.mixer = Attention(config)
        self.norm1 = LayerNorm(config.width, config.eps)
        self.mlp = nn.ModuleDict(
            {
                "gated_layers": Linear(config.width, 2 * config.mlp, bias=False),
                "wo": Linear(config.mlp, config.width),
            }
        )
        self.norm2 = LayerNorm(config.width, config.eps)

    def forward(self, x_BTH: Tensor, bias_BNTT: Tensor) -> Tensor:
        """Map [B, T, H] to [B, T, H]."""
        x_BTH = self.norm1(x_BTH + self.mixer(x_BTH, bias_BNTT))
        activated, plain = self.mlp["gated_layers"](x_BTH).chunk(2, dim=-1)
        normed_BTH: Tensor = self.norm2(x_BTH + self.mlp["wo"](functional.gelu(activated) * plain))
        return normed_BTH


class TextEncoder(nn.Module):
    """Token ids to last states."""

    slopes_N: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocabulary, config.width),
                "token_type_embeddings": nn.Embedding(config.types, config.width),
            }
        )
        self.emb_ln = LayerNorm(config.width, config.eps)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Block(config) for _ in range(config.layers))})
        self.register_buffer("slopes_N", torch.tensor(slopes(config.heads), device="cpu"), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map int32 [B, T], int32 [B, T] (1 = a token, 0 = padding) to [B, T, H]."""
        words, types = self.embeddings["word_embeddings"], self.embeddings["token_type_embeddings"]
        assert isinstance(words, nn.Embedding)
        assert isinstance(types, nn.Embedding)
        x_BTH = self.emb_ln(words(input_ids) + types.weight[0])
        bias_BNTT = self.bias(attention_mask).to(x_BTH.dtype)
        layers = self.encoder["layers"]
        assert isinstance(layers, nn.ModuleList)
        for layer in layers:
            x_BTH = layer(x_BTH, bias_BNTT)
        return x_BTH

    def bias(self, attention_mask: Tensor) -> Tensor:
        """Return float32 [B, N, T, T]: minus the distance times the head's slope, and far below for padding keys."""
        places_T = torch.arange(attention_mask.shape[1], dtype=torch.float32, device=attention_mask.device)
        distances_TT = (places_T.unsqueeze(0) - places_T.unsqueeze(1)).abs()
        bias_NTT = -self.slopes_N.view(-1, 1, 1) * distances_TT
        real_B11T = attention_mask.unsqueeze(1).unsqueeze(1) > 0
        return torch.where(real_B11T, bias_NTT, _PADDING)
