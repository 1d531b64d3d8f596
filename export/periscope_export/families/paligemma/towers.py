"""PaliGemma: the SigLIP tower with its projection, and Gemma, batch first.

Source: arXiv 2407.07726 (PaliGemma), 2303.15343 (SigLIP), 2403.08295 (Gemma), and the published weights.
Legend: B rows, N patches (one visual token each), C bytes a patch, V visual tokens, T tokens, E vision width, H hidden
width, F rotary frequencies.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.families.paligemma.config import LanguageConfig, VisionConfig
from periscope_export.models.layers import LayerNorm, Linear, Rotation, merge_heads, rotate, split_heads
from periscope_export.models.pixels import Pixels
from periscope_export.models.visual_tokens import place
from periscope_runtime.recipe import ImagePolicy


class VisionBlock(nn.Module):
    """Pre-norm block: every patch sees every other, then an MLP with a tanh GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.layer_norm1 = LayerNorm(config.width, config.eps)
        self.layer_norm2 = LayerNorm(config.width, config.eps)
        self.self_attn = nn.ModuleDict(
            {name: Linear(config.width, config.width) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        )
        self.mlp = nn.ModuleDict({"fc1": Linear(config.width, config.mlp), "fc2": Linear(config.mlp, config.width)})

    def forward(self, x_BNE: Tensor) -> Tensor:
        """Map [B, N, E] to [B, N, E]."""
        normed = self.layer_norm1(x_BNE)
        q, k, v = (split_heads(self.self_attn[f"{name}_proj"](normed), self.heads) for name in "qkv")
        attended = functional.scaled_dot_product_attention(q, k, v)
        x_BNE = x_BNE + self.self_attn["out_proj"](merge_heads(attended))
        return x_BNE + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.layer_norm2(x_BNE)), approximate="tanh"))


class VisionEncoder(nn.Module):
    """Patches of one fixed grid to visual tokens, one a patch."""

    def __init__(self, config: VisionConfig, image: ImagePolicy) -> None:
        super().__init__()
        self.pixels = Pixels(image)
        self.embeddings = nn.ModuleDict(
            {
                "patch_embedding": Linear(image.patch_dim, config.width),
                "position_embedding": nn.Embedding(config.patches, config.width),
            }
        )
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(VisionBlock(config) for _ in range(config.layers))})
        self.post_layernorm = LayerNorm(config.width, config.eps)
        self.projector = nn.ModuleDict({"linear": Linear(config.width, config.out)})

    def forward(self, patches: Tensor) -> Tensor:
        """Map uint8 [B, 1, N, C], one image an item, row by row, to [B, N, H]."""
        embedding, position = self.embeddings["patch_embedding"], self.embeddings["position_embedding"]
        layers = self.encoder["layers"]
        assert isinstance(embedding, Linear)
        assert isinstance(position, nn.Embedding)
        assert isinstance(layers, nn.ModuleList)
        x_BNE = embedding(self.pixels(patches).to(embedding.weight.dtype).squeeze(1)) + position.weight
        for block in layers:
            x_BNE = block(x_BNE)
        tokens_BNH: Tensor = self.projector["linear"](self.post_layernorm(x_BNE))
        return tokens_BNH


class ShiftedRMSNorm(nn.Module):
    """Gemma's root mean square normalisation: the weight is stored less one.

    Computed in float32 until after the product. One is added there too, in the graph: where the sum is rounded to half
    precision, a weight near zero is lost.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., H]."""
        weight = 1 + self.weight.to(torch.float32)
        return functional.rms_norm(x.to(torch.float32), self.weight.shape, weight, self.eps).to(x.dtype)


class LanguageBlock(nn.Module):
    """Pre-norm block: attention of all tokens to all real ones with shared keys, then an MLP gated by a tanh GELU."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.input_layernorm = ShiftedRMSNorm(config.width, config.eps)
        self.post_attention_layernorm = ShiftedRMSNorm(config.width, config.eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": Linear(config.width, config.heads * config.head, bias=False),
                "k_proj": Linear(config.width, config.kv_heads * config.head, bias=False),
                "v_proj": Linear(config.width, config.kv_heads * config.head, bias=False),
                "o_proj": Linear(config.heads * config.head, config.width, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": Linear(config.width, config.mlp, bias=False),
                "up_proj": Linear(config.width, config.mlp, bias=False),
                "down_proj": Linear(config.mlp, config.width, bias=False),
            }
        )

    def forward(self, x_BTH: Tensor, angles_BTF: Tensor, mask_B1TT: Tensor) -> Tensor:
        """Map [B, T, H] to [B, T, H]."""
        normed = self.input_layernorm(x_BTH)
        q = rotate(split_heads(self.self_attn["q_proj"](normed), self.heads), angles_BTF)
        k = rotate(split_heads(self.self_attn["k_proj"](normed), self.kv_heads), angles_BTF)
        v = split_heads(self.self_attn["v_proj"](normed), self.kv_heads)
        attended = functional.scaled_dot_product_attention(q, k, v, mask_B1TT, enable_gqa=True)
        x_BTH = x_BTH + self.self_attn["o_proj"](merge_heads(attended))
        normed = self.post_attention_layernorm(x_BTH)
        gated = functional.gelu(self.mlp["gate_proj"](normed), approximate="tanh") * self.mlp["up_proj"](normed)
        return x_BTH + self.mlp["down_proj"](gated)


class LanguageModel(nn.Module):
    """Token ids, with visual tokens written over the image token, to the last states after the final norm.

    Every token sees every real one, before and after it. Rows are padded on the right, so positions are those of the
    row; only their differences count, and whether they begin at 0 or at 1 does not.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.image_token_id = config.image_token_id
        self.scale = config.width**0.5
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(LanguageBlock(config) for _ in range(config.layers))
        self.norm = ShiftedRMSNorm(config.width, config.eps)
        self.rotation = Rotation(config.head, config.theta)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, visual_tokens: Tensor) -> Tensor:
        """Map int32 [B, T], int32 [B, T] (1 = real), [B, V, H] (V may be 0) to [B, T, H]."""
        is_image_BT = input_ids == self.image_token_id
        # The image token may lie beyond the table. Texts are scaled, visual tokens are not.
        texts_BTH = self.embed_tokens(torch.where(is_image_BT, 0, input_ids)) * self.scale
        x_BTH, _ = place(visual_tokens, texts_BTH, is_image_BT)
        angles_TF = self.rotation.angles(torch.arange(input_ids.shape[1], device=input_ids.device))
        angles_BTF = angles_TF.expand(input_ids.shape[0], -1, -1)
        # From the mask alone: the pad id is a token of the prompt as well. A row for each query, which engines ask for.
        mask_B1TT = (attention_mask > 0)[:, None, None, :].expand(-1, 1, input_ids.shape[1], -1)
        for layer in self.layers:
            x_BTH = layer(x_BTH, angles_BTF, mask_B1TT)
        states_BTH: Tensor = self.norm(x_BTH)
        return states_BTH
