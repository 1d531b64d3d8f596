"""Random checkpoints in the published layout of jina-clip-v1.

Heads are 64 wide and images 224 x 224, as published; everything else is small. Six text heads: not a power of two, so
that the slopes of their biases follow both rules. Weights, norms and biases are all random, so that nothing that an
implementation forgets can hide behind a zero or a one.

Source of the names: the modules of jinaai/jina-clip-implementation and jinaai/jina-bert-flash-implementation. The
published number of parameters, 222,647,041, is that of these names at the published sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from periscope_testing.files import normal, write_json
from periscope_testing.tokenizers.bert import make_bert_tokenizer

# The text tower of the published file, and as the code that it descends from calls it.
Layout = Literal["flash", "bert"]

_CODE = {"flash": "jinaai/jina-bert-flash-implementation", "bert": "jinaai/jina-bert-implementation"}
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class JinaClipSizes:
    """Depths and heads of both towers, which are equally wide. The defaults make a checkpoint of a few megabytes."""

    vision_layers: int = 2
    layers: int = 2
    heads: int = 6
    mlp: int = 320
    side: int = 224
    patch: int = 16
    deviation: float = 0.06

    @property
    def width(self) -> int:
        """Width of both towers: heads of 64."""
        return 64 * self.heads

    @property
    def vision_mlp(self) -> int:
        """Width of the vision tower's MLP, by the published ratio."""
        return int(self.width * 2.6667)


def make_jina_clip(
    folder: Path, sizes: JinaClipSizes | None = None, *, seed: int = 0, layout: Layout = "flash"
) -> Path:
    """Write a checkpoint and return its folder."""
    sizes = sizes or JinaClipSizes()
    generator = torch.Generator().manual_seed(seed)
    tokenizer = make_bert_tokenizer()
    vocabulary = tokenizer.get_vocab_size()
    weights = {
        name: normal(shape, _mean_of(name), sizes.deviation, generator) for name, shape in shapes(sizes, vocabulary)
    }
    if layout == "bert":
        weights = dict(_as_bert(weights))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", jina_clip_config(sizes, vocabulary, layout))
    write_json(folder / "preprocessor_config.json", preprocessor_config(sizes))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": True,
            "model_max_length": 8192,
            "cls_token": "[CLS]",
            "mask_token": "[MASK]",
            "pad_token": "[PAD]",
            "sep_token": "[SEP]",
            "unk_token": "[UNK]",
        },
    )
    return folder


def _mean_of(name: str) -> float:
    return float(bool(re.search(r"(norm\d?|_ln)\.weight$", name)))


def shapes(sizes: JinaClipSizes, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of the published file."""
    width, patches = sizes.width, (sizes.side // sizes.patch) ** 2
    yield "logit_scale", ()
    yield "vision_model.cls_token", (1, 1, width)
    yield "vision_model.pos_embed", (1, patches + 1, width)
    yield from _linear("vision_model.patch_embed.proj", (width, 3, sizes.patch, sizes.patch))
    for block in (f"vision_model.blocks.{layer}" for layer in range(sizes.vision_layers)):
        for name in ("q", "k", "v"):
            yield f"{block}.attn.{name}_proj.weight", (width, width)
        yield f"{block}.attn.q_bias", (width,)
        yield f"{block}.attn.v_bias", (width,)
        yield from _linear(f"{block}.attn.proj", (width, width))
        yield from _linear(f"{block}.mlp.w1", (sizes.vision_mlp, width))
        yield from _linear(f"{block}.mlp.w2", (sizes.vision_mlp, width))
        yield from _linear(f"{block}.mlp.w3", (width, sizes.vision_mlp))
        yield from _norm(f"{block}.mlp.ffn_ln", sizes.vision_mlp)
        for name in ("norm1", "norm2", "attn.inner_attn_ln"):
            yield from _norm(f"{block}.{name}", width)
    yield from _norm("vision_model.norm", width)

    text = "text_model.transformer"
    yield f"{text}.embeddings.word_embeddings.weight", (vocabulary, width)
    yield f"{text}.embeddings.token_type_embeddings.weight", (2, width)
    yield from _norm(f"{text}.emb_ln", width)
    for block in (f"{text}.encoder.layers.{layer}" for layer in range(sizes.layers)):
        yield from _linear(f"{block}.mixer.Wqkv", (3 * width, width))
        yield from _linear(f"{block}.mixer.out_proj", (width, width))
        yield f"{block}.mlp.gated_layers.weight", (2 * sizes.mlp, width)
        yield from _linear(f"{block}.mlp.wo", (width, sizes.mlp))
        yield from _norm(f"{block}.norm1", width)
        yield from _norm(f"{block}.norm2", width)


def _linear(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def jina_clip_config(sizes: JinaClipSizes, vocabulary: int, layout: Layout = "flash") -> dict[str, Any]:
    """Return `config.json`. The text tower's sizes are those of its code, and the published file changes none."""
    return {
        "_name_or_path": "jinaai/jina-clip-v1",
        "add_projections": False,
        "architectures": ["JinaCLIPModel"],
        "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592,
        "model_type": "jina_clip",
        "projection_dim": sizes.width,
        "text_config": {
            "embed_dim": sizes.width,
            "hf_model_config_kwargs": {
                "use_flash_attn": False,
                "hidden_size": sizes.width,
                "num_hidden_layers": sizes.layers,
                "num_attention_heads": sizes.heads,
                "intermediate_size": sizes.mlp,
                "vocab_size": vocabulary,
            },
            "hf_model_name_or_path": _CODE[layout],
            "model_type": "jina_clip_text",
            "pad_token_id": None,
            "pooler_type": "mean_pooler",
            "proj_bias": False,
            "proj_type": None,
        },
        "torch_dtype": "float32",
        "vision_config": {
            "embed_dim": sizes.width,
            "fused_layer_norm": False,
            "head_width": 64,
            "image_size": sizes.side,
            "intp_freq": False,
            "layers": sizes.vision_layers,
            "ls_init_value": None,
            "mlp_ratio": 2.6667,
            "model_type": "jina_clip_vision",
            "naive_swiglu": True,
            "patch_dropout": 0.1,
            "patch_size": sizes.patch,
            "post_norm": False,
            "proj_type": None,
            "pt_hw_seq_len": sizes.side // sizes.patch,
            "qkv_bias": True,
            "rope_embeddings": True,
            "subln": True,
            "width": sizes.width,
            "x_attention": False,
        },
    }


def preprocessor_config(sizes: JinaClipSizes) -> dict[str, Any]:
    """Return how images are prepared."""
    return {
        "fill_color": 0,
        "image_processor_type": "JinaCLIPImageProcessor",
        "interpolation": "bicubic",
        "mean": list(_MEAN),
        "processor_class": "JinaCLIPProcessor",
        "resize_mode": "shortest",
        "size": sizes.side,
        "std": list(_STD),
    }


def _as_bert(weights: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the same weights as jinaai/jina-bert-implementation calls and cuts them."""
    for name, tensor in weights.items():
        if not name.startswith("text_model.transformer."):
            yield name, tensor
            continue
        name = name.replace(".emb_ln.", ".embeddings.LayerNorm.").replace(".layers.", ".layer.")
        name = name.replace(".mixer.out_proj.", ".attention.output.dense.")
        name = name.replace(".norm1.", ".attention.output.LayerNorm.").replace(".norm2.", ".mlp.layernorm.")
        if ".mixer.Wqkv." in name:
            for part, values in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                yield name.replace(".mixer.Wqkv.", f".attention.self.{part}."), values.contiguous()
        else:
            yield name, tensor
