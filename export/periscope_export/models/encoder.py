"""The encoder that text towers are, batch first: a post-norm BERT whose positions are biases of distances or rotations.

Source: arXiv 1810.04805 (BERT), 2310.19923 (JinaBERT), 2409.10173 (XLM-RoBERTa with rotations). JinaBERT and that
XLM-RoBERTa are values of it. B rows, T tokens, H width, A heads, U head width, F rotary frequencies (U / 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.models.layers import LayerNorm, Linear, Rotation, merge_heads, rotate, split_heads

# The bias of padding keys: beside a real key, and every row sees one, they weigh exactly nothing. Not as low as float16
# allows, so that sums with it stay far from its limits.
_PADDING = -1e4


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes and kind of an encoder.

    `qkv`: whether queries, keys and values are one stored weight.
    `gated`: whether the first half of the MLP's layer is activated and gates the second.
    `types`: the number of token types, of which texts have the first.
    """

    layers: int
    width: int
    heads: int
    mlp: int
    vocabulary: int
    types: int
    eps: float
    qkv: Literal["fused", "separate"] = "fused"
    gated: bool = False


def slopes(heads: int) -> list[float]:
    """Return how fast each head forgets: a geometric row for a power of two, else every second of the next one more.

    >>> slopes(6)
    [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    """
    power = 2 ** int(math.log2(heads))
    row = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return row if power == heads else row + slopes(2 * power)[::2][: heads - power]


class EncoderAttention(nn.Module):
    """Full attention; stored with one weight for queries, keys and values, or with three."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.names = ("Wqkv",) if config.qkv == "fused" else ("query", "key", "value")
        for name in self.names:
            self.add_module(name, Linear(config.width, 3 * config.width // len(self.names)))
        self.out_proj = Linear(config.width, config.width)

    def forward(self, x_BTH: Tensor, mask: Tensor, angles_BTF: Tensor | None) -> Tensor:
        """Map [B, T, H] to [B, T, H]; the mask is a bias, or says what is seen."""
        joined = torch.cat([self.get_submodule(name)(x_BTH) for name in self.names], dim=-1)
        q, k, v = (split_heads(part, self.heads) for part in joined.chunk(3, dim=-1))
        if angles_BTF is not None:
            q, k = rotate(q, angles_BTF), rotate(k, angles_BTF)
        attended = functional.scaled_dot_product_attention(q, k, v, mask)
        mixed_BTH: Tensor = self.out_proj(merge_heads(attended))
        return mixed_BTH


class EncoderBlock(nn.Module):
    """Post-norm block: attention, then an MLP."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.mixer = EncoderAttention(config)
        self.norm1 = LayerNorm(config.width, config.eps)
        width, mlp = config.width, config.mlp
        self.gated = config.gated
        self.mlp = nn.ModuleDict(
            {"gated_layers": Linear(width, 2 * mlp, bias=False), "wo": Linear(mlp, width)}
            if config.gated
            else {"fc1": Linear(width, mlp), "fc2": Linear(mlp, width)}
        )
        self.norm2 = LayerNorm(config.width, config.eps)

    def forward(self, x_BTH: Tensor, mask: Tensor, angles_BTF: Tensor | None) -> Tensor:
        """Map [B, T, H] to [B, T, H]."""
        x_BTH = self.norm1(x_BTH + self.mixer(x_BTH, mask, angles_BTF))
        normed_BTH: Tensor = self.norm2(x_BTH + self._mlp(x_BTH))
        return normed_BTH

    def _mlp(self, x_BTH: Tensor) -> Tensor:
        if not self.gated:
            mapped_BTH: Tensor = self.mlp["fc2"](functional.gelu(self.mlp["fc1"](x_BTH)))
            return mapped_BTH
        activated, plain = self.mlp["gated_layers"](x_BTH).chunk(2, dim=-1)
        gated_BTH: Tensor = self.mlp["wo"](functional.gelu(activated) * plain)
        return gated_BTH


class Encoder(nn.Module):
    """Token ids to last states. Every token sees every real one.

    Heads are turned by `rotation`; without one, attention is biased by distances (ALiBi, arXiv 2108.12409).
    """

    slopes_A: Tensor

    def __init__(self, config: EncoderConfig, rotation: Rotation | None = None) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocabulary, config.width),
                "token_type_embeddings": nn.Embedding(config.types, config.width),
            }
        )
        self.emb_ln = LayerNorm(config.width, config.eps)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))})
        self.rotation = rotation
        if rotation is None:
            self.register_buffer("slopes_A", torch.tensor(slopes(config.heads), device="cpu"), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Map int32 [B, T], int32 [B, T] (1 = a token, 0 = padding) to [B, T, H]."""
        words, types = self.embeddings["word_embeddings"], self.embeddings["token_type_embeddings"]
        layers = self.encoder["layers"]
        assert isinstance(words, nn.Embedding)
        assert isinstance(types, nn.Embedding)
        assert isinstance(layers, nn.ModuleList)
        x_BTH = self.emb_ln(words(input_ids) + types.weight[0])
        if self.rotation is None:
            mask, angles_BTF = self.bias(attention_mask).to(x_BTH.dtype), None
        else:
            rows, tokens = input_ids.shape
            mask = (attention_mask > 0)[:, None, None, :].expand(-1, 1, tokens, -1)
            # Rows are padded on the right, so that positions are those of the row.
            angles_BTF = self.rotation.angles(torch.arange(tokens, device=mask.device)).expand(rows, -1, -1)
        for layer in layers:
            x_BTH = layer(x_BTH, mask, angles_BTF)
        return x_BTH

    def bias(self, attention_mask: Tensor) -> Tensor:
        """Return float32 [B, A, T, T]: minus the distance times the head's slope, and far below for padding keys."""
        places_T = torch.arange(attention_mask.shape[1], dtype=torch.float32, device=attention_mask.device)
        distances_TT = (places_T.unsqueeze(0) - places_T.unsqueeze(1)).abs()
        bias_ATT = -self.slopes_A.view(-1, 1, 1) * distances_TT
        real_B11T = attention_mask.unsqueeze(1).unsqueeze(1) > 0
        return torch.where(real_B11T, bias_ATT, _PADDING)
