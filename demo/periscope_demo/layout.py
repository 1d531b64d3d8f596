"""The published layouts of ColQwen2: what a checkpoint's files are called and hold.

A base with its `config.json`, an adapter on it, and the processor's files. The shapes come from the published classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from periscope_demo.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

# The names that weights have had: files of colpali-engine before and after transformers 4.52, and of transformers.
Layout = Literal["engine-old", "engine-new", "transformers"]

# The modules that the published adapters change.
LORA_TARGETS = re.compile(
    r"language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight|custom_text_proj\.weight"
)


@dataclass(frozen=True)
class Sizes:
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


QWEN2_VL_2B_WIDTHS = Sizes(
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


def config_of(sizes: Sizes, tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` as the hub's Qwen2-VL files have it: flat."""
    return {
        "model_type": "qwen2_vl",
        "architectures": ["ColQwen2"],
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


def published_shapes(config: dict[str, Any]) -> dict[str, torch.Size]:
    """Names and shapes as the published class has them today."""
    from colpali_engine.models import ColQwen2
    from transformers import Qwen2VLConfig

    with torch.device("meta"):
        model = ColQwen2(Qwen2VLConfig(**{key: value for key, value in config.items() if key != "architectures"}))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def renamed(name: str, layout: Layout) -> str:
    """Return what a layout calls a weight of the published class."""
    if layout == "engine-old":
        return re.sub(r"^language_model\.", "model.", name)
    if layout == "engine-new":
        return name
    if name.startswith("custom_text_proj."):
        return name.replace("custom_text_proj", "embedding_proj_layer")
    return f"vlm.{name}"


def write_model(folder: Path, weights: Mapping[str, torch.Tensor], config: dict[str, Any], layout: Layout) -> None:
    """Write full weights, named as in the published class, in two shards, and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "transformers":
        config = {"model_type": "colqwen2", "embedding_dim": 128, "vlm_config": config}
    stored = {renamed(name, layout): tensor.contiguous() for name, tensor in weights.items()}
    # Two shards, as every published model of this size has.
    names = sorted(stored)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: stored[name] for name in members}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, members in shards.items() for name in members}
    size = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})
    _write_json(folder / "config.json", config)


def write_adapter(
    folder: Path, base: str, modules: Mapping[str, Mapping[str, torch.Tensor]], layout: Layout, rank: int, dora: bool
) -> None:
    """Write an adapter on the base at `base`.

    `modules` maps a weight of the published class to the tensors that its module gets, by peft's names for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{renamed(name, layout).removesuffix('.weight')}.{part}": tensor.contiguous()
        for name, parts in modules.items()
        for part, tensor in parts.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    _write_json(
        folder / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "FEATURE_EXTRACTION",
            "base_model_name_or_path": base,
            "r": rank,
            "lora_alpha": rank,
            "lora_dropout": 0.1,
            "init_lora_weights": "gaussian",
            "bias": "none",
            "use_dora": dora,
            "use_rslora": False,
            "fan_in_fan_out": False,
            "modules_to_save": None,
            "target_modules": "(.*(model).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$"
            "|.*(custom_text_proj).*$)",
        },
    )


def write_processor(folder: Path, tokenizer: Tokenizer, sizes: Sizes) -> None:
    """Write the tokenizer and how images are prepared."""
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
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
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "ColQwen2Processor",
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


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
