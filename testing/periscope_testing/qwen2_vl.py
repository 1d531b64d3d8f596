"""Parts that the systems on Qwen2-VL share: sizes, `config.json`, the processor's files, random weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from periscope_testing.files import normal, write_json


@dataclass(frozen=True)
class Qwen2VLSizes:
    """Widths and depths of a Qwen2-VL. The defaults make a checkpoint of a few megabytes."""

    vision_layers: int = 2
    vision_heads: int = 2
    vision_head_width: int = 80
    language_layers: int = 2
    heads: int = 2
    kv_heads: int = 1
    mlp: int = 320
    vocabulary: int = 1024
    rank: int = 4
    min_pixels: int = 3136
    max_pixels: int = 602112
    deviation: float = 0.06
    dtype: torch.dtype = field(default=torch.float32)

    @property
    def width(self) -> int:
        """Width of the language model: heads of 128."""
        return 128 * self.heads

    @property
    def vision_width(self) -> int:
        """Width of the vision tower; its heads are 80 wide unless said otherwise, as published."""
        return self.vision_head_width * self.vision_heads


QWEN2_VL_2B_WIDTHS = Qwen2VLSizes(
    vision_layers=4,
    vision_heads=16,
    language_layers=4,
    heads=12,
    kv_heads=2,
    mlp=8960,
    vocabulary=151936,
    rank=32,
    deviation=0.02,
)

# The published 2B: 2,209,182,336 values with the projection.
QWEN2_VL_2B = replace(QWEN2_VL_2B_WIDTHS, vision_layers=32, language_layers=28, dtype=torch.bfloat16)


def qwen2_vl_config(sizes: Qwen2VLSizes, tokenizer: Tokenizer, architecture: str) -> dict[str, Any]:
    """`config.json` as the hub's Qwen2-VL files have it: flat."""
    return {
        "model_type": "qwen2_vl",
        "architectures": [architecture],
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.language_layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "intermediate_size": sizes.mlp,
        "vocab_size": sizes.vocabulary,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "max_position_embeddings": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "torch_dtype": str(sizes.dtype).removeprefix("torch."),
        "image_token_id": tokenizer.token_to_id("<|image_pad|>"),
        "video_token_id": tokenizer.token_to_id("<|video_pad|>"),
        "vision_start_token_id": tokenizer.token_to_id("<|vision_start|>"),
        "vision_end_token_id": tokenizer.token_to_id("<|vision_end|>"),
        "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "vision_config": {
            "depth": sizes.vision_layers,
            "embed_dim": sizes.vision_width,
            "num_heads": sizes.vision_heads,
            "hidden_size": sizes.width,
            "mlp_ratio": 4,
            "in_chans": 3,
            "hidden_act": "quick_gelu",
            "patch_size": 14,
            "spatial_patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def mean_of(name: str) -> float:
    """Return what the weights of a name lie around: norms around one."""
    return float(bool(re.search(r"norm\d?\.weight|layernorm\.weight|ln_q\.weight", name)))


def random_weights(
    shapes: Mapping[str, torch.Size], sizes: Qwen2VLSizes, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Return weights, norms and biases, all random: nothing that is forgotten can hide behind a zero or a one."""
    return {
        name: normal(shape, mean_of(name), sizes.deviation, generator).to(sizes.dtype) for name, shape in shapes.items()
    }


def write_processor(folder: Path, tokenizer: Tokenizer, sizes: Qwen2VLSizes, processor: str) -> None:
    """Write the tokenizer and how images are prepared."""
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "pad_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "bos_token": None,
            "unk_token": None,
            "model_max_length": 32768,
        },
    )
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": processor,
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "min_pixels": sizes.min_pixels,
            "max_pixels": sizes.max_pixels,
            "size": {"shortest_edge": sizes.min_pixels, "longest_edge": sizes.max_pixels},
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
        },
    )
