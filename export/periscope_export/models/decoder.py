"""The decoder that language models are, batch first: Qwen2, Qwen2.5, Qwen3, Llama, Mistral and Gemma are values of it.

B rows, T tokens, V visual tokens, H hidden width, W width of a visual token with its levels (H * (1 + L)), L levels of
DeepStack (arXiv 2406.04334), J tokens of a kept prefix or image, S all that a token may see (J + T), A heads, U head
width, F rotary frequencies (U / 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.models.kept_prefixes import Kept, KeptPrefixes
from periscope_export.models.layers import (
    ACTIVATIONS,
    Linear,
    MultiRotation,
    RMSNorm,
    Rotation,
    ShiftedRMSNorm,
    merge_heads,
    rotate,
)
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.models.task_adapters import Choice
from periscope_export.models.visual_tokens import place
from periscope_export.recipes.schema import Recipe
from periscope_runtime.positions import mrope_positions

_NORMS: dict[str, Callable[[int, float], nn.Module]] = {"rms": RMSNorm, "rms_plus_one": ShiftedRMSNorm}


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and kind of a decoder.

    `image_token_id`: the id over whose embeddings visual tokens are written. It may lie beyond the vocabulary.
    `attention`: whether a token sees those before it or all. Said by the recipe.
    `norm`: "rms_plus_one" where the weight is stored less one.
    `qkv_bias`: whether queries, keys and values have biases.
    `head_norm`: whether each head of queries and keys is normalised before it is rotated.
    `final_norm`: whether the last states are normalised. Said by the recipe.
    `embedding_scale`: the factor of embeddings of texts. Visual tokens have none.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    vocabulary: int
    eps: float
    image_token_id: int
    attention: Literal["causal", "bidirectional"] = "causal"
    norm: Literal["rms", "rms_plus_one"] = "rms"
    activation: Literal["silu", "gelu_tanh"] = "silu"
    qkv_bias: bool = False
    head_norm: bool = False
    final_norm: bool = True
    embedding_scale: float = 1.0


@dataclass(frozen=True)
class LanguageConfig:
    """A decoder and the rotation of its heads.

    `theta`: the base of the frequencies.
    `axes`: the row of positions that turns each frequency. Plain positions are the first row alone.
    """

    decoder: DecoderConfig
    theta: float
    axes: tuple[int, ...]

    def rotation(self) -> MultiRotation:
        """Return the module that rotates heads."""
        return MultiRotation(self.decoder.head, self.theta, self.axes)


class DecoderBlock(nn.Module):
    """Pre-norm block: attention with grouped keys, then a gated MLP."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        norm, width, head, mlp = _NORMS[config.norm], config.width, config.head, config.mlp
        self.head, self.grouped, self.head_norm = head, config.heads != config.kv_heads, config.head_norm
        self.activation = ACTIVATIONS[config.activation]
        self.input_layernorm = norm(width, config.eps)
        self.post_attention_layernorm = norm(width, config.eps)
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": Linear(width, config.heads * head, bias=config.qkv_bias),
                "k_proj": Linear(width, config.kv_heads * head, bias=config.qkv_bias),
                "v_proj": Linear(width, config.kv_heads * head, bias=config.qkv_bias),
                "o_proj": Linear(config.heads * head, width, bias=False),
            }
        )
        if config.head_norm:
            self.self_attn.update({"q_norm": norm(head, config.eps), "k_norm": norm(head, config.eps)})
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": Linear(width, mlp, bias=False),
                "up_proj": Linear(width, mlp, bias=False),
                "down_proj": Linear(mlp, width, bias=False),
            }
        )

    def heads(self, x_BTH: Tensor, angles_BTF: Tensor, chosen: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Map [B, T, H] to queries, keys and values [B, A, T, U], the first two rotated."""
        normed = self.input_layernorm(x_BTH)
        q, k, v = (self.self_attn[f"{name}_proj"](normed, chosen).unflatten(-1, (-1, self.head)) for name in "qkv")
        if self.head_norm:
            q, k = self.self_attn["q_norm"](q), self.self_attn["k_norm"](k)
        # Transposed after the norms, which do not mind: engines then transpose as they rotate.
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return rotate(q, angles_BTF), rotate(k, angles_BTF), v

    def forward(
        self,
        x_BTH: Tensor,
        angles_BTF: Tensor,
        mask_B1TT: Tensor | None = None,
        kept: Kept | None = None,
        chosen: Tensor | None = None,
    ) -> Tensor:
        """Map [B, T, H] to [B, T, H].

        Without a mask attention is causal; `kept` is what comes before these tokens, `chosen` the adapters that count.
        """
        q, k, v = self.heads(x_BTH, angles_BTF, chosen)
        mask = mask_B1TT
        if kept is not None:
            k, v, mask = torch.cat((kept.keys_BAJU, k), 2), torch.cat((kept.values_BAJU, v), 2), kept.mask_TS
        # The exporter refuses groups of one.
        attended = functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, enable_gqa=self.grouped
        )
        x_BTH = x_BTH + self.self_attn["o_proj"](merge_heads(attended), chosen)
        normed = self.post_attention_layernorm(x_BTH)
        gated = self.activation(self.mlp["gate_proj"](normed, chosen)) * self.mlp["up_proj"](normed, chosen)
        return x_BTH + self.mlp["down_proj"](gated, chosen)


class Decoder(nn.Module):
    """Token ids, with visual tokens written over the image token, to the last states.

    Level i of DeepStack is added to what layer i gives, at the image tokens. Padding is on the right. Where attention
    is causal no real token ever sees it, so there is no mask.
    """

    def __init__(self, config: DecoderConfig, rotation: Rotation) -> None:
        super().__init__()
        self.image_token_id, self.scale = config.image_token_id, config.embedding_scale
        self.bidirectional = config.attention == "bidirectional"
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.layers))
        self.norm = _NORMS[config.norm](config.width, config.eps) if config.final_norm else nn.Identity()
        self.rotation = rotation
        self.prefixes: KeptPrefixes | None = None
        self.choice: Choice | None = None
        # No weight of a checkpoint, and in the graph's precision as weights are.
        self.image_tokens: nn.Parameter | None = None
        self.image_grids: list[tuple[int, int]] = []

    def keep(self, prefixes: Sequence[Tensor]) -> None:
        """Compute keys and values of prefixes, ids [J] each; `forward` takes `prefix_index` from then on.

        Image tokens among them are those of the image that is kept.
        """
        self.prefixes = KeptPrefixes([self._keys_and_values(ids_J) for ids_J in prefixes])

    def _keys_and_values(self, ids_J: Tensor) -> list[tuple[Tensor, Tensor]]:
        ids_1J = ids_J.unsqueeze(0)
        grids = self.image_grids if self.image_token_id in ids_J else []
        positions_3J = torch.tensor(mrope_positions(ids_J.numpy(), self.image_token_id, grids))
        x_1JH, levels = self._embedded(ids_1J, self.embed_tokens.weight.new_zeros(1, 0, self._visual_width()))
        angles_1JF = self.rotation.angles(positions_3J.unsqueeze(0))
        found = []
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderBlock)
            _, keys_1AJU, values_1AJU = layer.heads(x_1JH, angles_1JF)
            found.append((keys_1AJU, values_1AJU))
            x_1JH = layer(x_1JH, angles_1JF)
            if index < len(levels):
                x_1JH = x_1JH + levels[index]
        return found

    def keep_image(self, visual_tokens_JW: Tensor, grids: list[tuple[int, int]]) -> None:
        """Keep visual tokens for rows that are given none; `grids` is of their rows and columns, for M-RoPE alone."""
        self.image_tokens = nn.Parameter(visual_tokens_JW, requires_grad=False)
        self.image_grids = grids

    def _visual_width(self) -> int:
        kept = self.image_tokens
        return self.embed_tokens.embedding_dim if kept is None else kept.shape[1]

    def _embedded(self, input_ids: Tensor, visual_tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map int [B, T] and [B, V, W] to [B, T, H], and the levels of DeepStack likewise."""
        is_image_BT = input_ids == self.image_token_id
        texts_BTH = self.embed(torch.where(is_image_BT, 0, input_ids))
        if self.image_tokens is not None:
            kept_BJW = self.image_tokens.expand(input_ids.shape[0], -1, -1)
            visual_tokens = torch.cat((visual_tokens, kept_BJW), dim=1)
        return place(visual_tokens, texts_BTH, is_image_BT)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Map ids of texts [...] to [..., H]."""
        texts: Tensor = self.embed_tokens(input_ids)
        return texts if self.scale == 1 else texts * self.scale

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        visual_tokens: Tensor,
        seen: Tensor | None = None,
        *,
        adapter_index: Tensor | None = None,
    ) -> Tensor:
        """Map int32 [B, T], int32 [B, 3, T], [B, V, W] (V may be 0) to [B, T, H].

        `seen` is, where attention is bidirectional, `attention_mask` int32 [B, T] (1 = a token, 0 = padding); of a
        model that keeps prefixes, `prefix_index` int32 [B, J]: which of their tokens come before. `adapter_index` int32
        [B, 1] says which adapter counts for a row, of a model that has those of several tasks.
        """
        x_BTH, levels = self._embedded(input_ids, visual_tokens)
        angles_BTF = self.rotation.angles(position_ids)
        mask_B1TT, kept = None, list[Kept | None]([None] * len(self.layers))
        if self.bidirectional:
            assert seen is not None
            # From the mask alone: pad ids are text in some prompts. A row for each query, which engines ask for.
            mask_B1TT = (seen > 0)[:, None, None, :].expand(-1, 1, input_ids.shape[1], -1)
        elif seen is not None:
            assert self.prefixes is not None
            kept[:] = self.prefixes(seen, input_ids.shape[1])
        chosen = None if self.choice is None else self.choice(adapter_index, x_BTH.dtype)
        for index, (layer, before) in enumerate(zip(self.layers, kept, strict=True)):
            x_BTH = layer(x_BTH, angles_BTF, mask_B1TT, before, chosen)
            if index < len(levels):
                x_BTH = x_BTH + levels[index]
        states_BTH: Tensor = self.norm(x_BTH)
        return states_BTH


def decoder_step(language: LanguageConfig, visual_width: int, recipe: Recipe) -> Step:
    """Describe the step of a decoder as the recipe wants it: with which attention, and with or without its last norm.

    `visual_width` is that of a visual token with its levels.
    """
    config = replace(language.decoder, attention=recipe.attention, final_norm=recipe.final_norm)
    causal = config.attention == "causal"
    return Step(
        name="language_model",
        build=partial(_build, replace(language, decoder=config)),
        prefix="language_model.",
        inputs=(
            TensorSpec("input_ids", "int32", ("B", "T")),
            TensorSpec("position_ids", "int32", ("B", 3, "T")),
            # None beside texts.
            TensorSpec("visual_tokens", "float", ("B", "V", visual_width)),
            *([] if causal else [TensorSpec("attention_mask", "int32", ("B", "T"))]),
        ),
        outputs=(TensorSpec("hidden_states", "float", ("B", "T", config.width)),),
        paths=recipe.paths,
        keeps_prefixes=causal,
        unused="" if config.final_norm else r"language_model\.norm\.weight",
    )


def _build(language: LanguageConfig) -> Decoder:
    return Decoder(language.decoder, language.rotation())
