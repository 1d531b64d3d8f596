"""Random checkpoints in the published layout of Qwen3-VL-Embedding and Qwen3-VL-Reranker.

Head widths are the published ones (128 in the language model; 64 in the vision tower, 72 in that of the 8B) and
everything else is small; the heads together are wider than the language model, as in the published 4B. Weights, norms
and biases are all random, so that nothing that an implementation forgets can hide behind a zero or a one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from periscope_testing.files import write_json
from periscope_testing.qwen3_vl.processor import write_processor
from periscope_testing.shards import write_shards
from periscope_testing.tokenizers.qwen2 import make_tokenizer
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

# The words whose logits are a reranker's score.
ANSWERS = ("yes", "no")


@dataclass(frozen=True)
class Qwen3VLSizes:
    """Widths and depths of a Qwen3-VL. The defaults make a checkpoint of a few megabytes."""

    vision_layers: int = 5
    vision_heads: int = 2
    vision_head_width: int = 64
    vision_mlp: int = 160
    levels: tuple[int, ...] = (0, 1, 3)
    layers: int = 4
    width: int = 192
    heads: int = 2
    kv_heads: int = 1
    mlp: int = 320
    vocabulary: int = 1024
    tied: bool = True
    deviation: float = 0.06
    dtype: torch.dtype = torch.float32
    shards: int = 2

    @property
    def vision_width(self) -> int:
        """Width of the vision tower."""
        return self.vision_head_width * self.vision_heads


# The published 2B: 2,127,532,032 values.
QWEN3_VL_2B = Qwen3VLSizes(
    vision_layers=24,
    vision_heads=16,
    vision_mlp=4096,
    levels=(5, 11, 17),
    layers=28,
    width=2048,
    heads=16,
    kv_heads=8,
    mlp=6144,
    vocabulary=151936,
    deviation=0.02,
    dtype=torch.bfloat16,
    shards=5,
)


def make_qwen3_vl_embedding(
    folder: Path, sizes: Qwen3VLSizes | None = None, *, seed: int = 0, tokenizer: Tokenizer | None = None
) -> Path:
    """Write an embedding checkpoint, which has no language head, and return its folder.

    `tokenizer` is one of `make_tokenizer`, by default that of the answers.
    """
    return _make(folder, sizes or Qwen3VLSizes(), seed, tokenizer or make_tokenizer(answers=ANSWERS), head=False)


def make_qwen3_vl_reranker(folder: Path, sizes: Qwen3VLSizes | None = None, *, seed: int = 0) -> Path:
    """Write a reranker checkpoint, with a language head of its own unless it is tied, and return its folder."""
    return _make(folder, sizes or Qwen3VLSizes(), seed, make_tokenizer(answers=ANSWERS), head=True)


def config_of(sizes: Qwen3VLSizes, tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` as the hub's files have it."""
    dtype = str(sizes.dtype).removeprefix("torch.")
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "dtype": dtype,
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
        "tie_word_embeddings": sizes.tied,
        "text_config": {
            "model_type": "qwen3_vl_text",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
            "pad_token_id": None,
            "dtype": dtype,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": sizes.width,
            "initializer_range": 0.02,
            "intermediate_size": sizes.mlp,
            "max_position_embeddings": 262144,
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers,
            "num_key_value_heads": sizes.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000,
            "tie_word_embeddings": sizes.tied,
            "use_cache": True,
            "vocab_size": sizes.vocabulary,
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "deepstack_visual_indexes": list(sizes.levels),
            "depth": sizes.vision_layers,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": sizes.vision_width,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": sizes.vision_mlp,
            "num_heads": sizes.vision_heads,
            "num_position_embeddings": 2304,
            "out_hidden_size": sizes.width,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def published_shapes(config: dict[str, Any]) -> dict[str, torch.Size]:
    """Names and shapes as the published class has them; `lm_head.weight` is among them when it is not tied."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig.from_dict(config))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        del shapes["lm_head.weight"]
    return shapes


def _make(folder: Path, sizes: Qwen3VLSizes, seed: int, tokenizer: Tokenizer, head: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(sizes, tokenizer)
    shapes = published_shapes(config)
    if not head:
        shapes.pop("lm_head.weight", None)

    def moments(name: str) -> tuple[float, float]:
        # As faint as the other weights, the table of positions would hardly be seen beside the patches, and vision
        # attention would look everywhere alike.
        factor = 10 if "pos_embed" in name else 2 if "attn.qkv" in name else 1
        return float(bool(re.search(r"norm\d?\.weight", name))), sizes.deviation * factor

    write_shards(folder, shapes, moments, dtype=sizes.dtype, seed=seed, shards=sizes.shards)
    write_json(folder / "config.json", config)
    write_processor(folder, tokenizer)
    return folder
