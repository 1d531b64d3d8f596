"""Parts that the systems on Qwen2-VL share: sizes, `config.json`, the processor, random weights, whole models."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from periscope_testing.files import normal, write_json, write_tensors, write_torch
from periscope_testing.tokenizers.qwen2 import make_tokenizer
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

# The names that weights have: of the hub's files, and since transformers 4.52.
Layout = Literal["old", "new"]
# The files of the weights: two shards of safetensors, or one of torch's own.
Files = Literal["safetensors", "bin"]
# `config.json`: as the hub's files have it, without what equals a class's default (transformers 4.45 to 4.49), as
# transformers 5 writes it.
Form = Literal["flat", "short", "nested"]


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
    tied: bool = True
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
        "tie_word_embeddings": sizes.tied,
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


# The turns as the published template makes them: a system turn of its own before a first one that is none.
_CHAT_TEMPLATE = """\
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for content in message.content %}
        {%- if content.type == 'image' %}
            {{- '<|vision_start|><|image_pad|><|vision_end|>' }}
        {%- else %}
            {{- content.text }}
        {%- endif %}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def make_qwen2_vl(
    folder: Path,
    sizes: Qwen2VLSizes | None = None,
    *,
    seed: int = 0,
    layout: Layout = "old",
    form: Form = "flat",
    files: Files = "safetensors",
    tokenizer: Tokenizer | None = None,
    config_of: Callable[[Qwen2VLSizes, Tokenizer, str], dict[str, Any]] = qwen2_vl_config,
    architecture: str = "Qwen2VLForConditionalGeneration",
) -> Path:
    """Write a whole Qwen2-VL, as retrievers without layers of their own are published, and return its folder.

    `tokenizer` is one of `make_tokenizer`, by default that of no words; `config_of` gives the flat `config.json` of an
    `architecture`, a class of transformers.
    """
    import transformers

    sizes, tokenizer = sizes or Qwen2VLSizes(), tokenizer or make_tokenizer()
    config = config_of(sizes, tokenizer, architecture)
    with torch.device("meta"):
        published = getattr(transformers, architecture)(class_config(config)).state_dict()
    if sizes.tied:
        del published["lm_head.weight"]
    shapes = {name: tensor.shape for name, tensor in published.items()}
    weights = random_weights(shapes, sizes, torch.Generator().manual_seed(seed))
    folder.mkdir(parents=True, exist_ok=True)
    write = write_torch if files == "bin" else write_tensors
    write(folder, {renamed(name, layout): tensor for name, tensor in weights.items()})
    write_json(folder / "config.json", in_form(config, form))
    write_processor(folder, tokenizer, sizes, architecture.replace("ForConditionalGeneration", "Processor"))
    write_json(folder / "chat_template.json", {"chat_template": _CHAT_TEMPLATE})
    return folder


def renamed(name: str, layout: Layout) -> str:
    """Return what a layout calls a weight of the published class."""
    if layout == "new":
        return name
    return re.sub(
        r"^model\.(visual\.|language_model\.)", lambda match: {"v": "visual.", "l": "model."}[match[1][0]], name
    )


def class_config(config: dict[str, Any]) -> Any:
    """Return the object that the published class is made of."""
    from transformers import AutoConfig

    # It completes the sections that it is given in place.
    return AutoConfig.for_model(**copy.deepcopy(config))


def in_form(config: dict[str, Any], form: Form) -> dict[str, Any]:
    """Return a flat `config.json` in another form."""
    if form == "flat":
        return config
    whole = class_config(config)
    if form == "nested":
        nested: dict[str, Any] = json.loads(whole.to_json_string())
        return nested
    defaults = type(whole.vision_config)().to_dict()
    vision = {key: value for key, value in config["vision_config"].items() if defaults.get(key) != value}
    return {**config, "vision_config": {"model_type": config["model_type"], **vision}}
