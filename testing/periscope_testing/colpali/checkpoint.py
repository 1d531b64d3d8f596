"""Random checkpoints in every published layout of ColPali.

Head widths are the published ones (72 in SigLIP, 256 in Gemma, one of keys and values) and everything else is small.
Weights, norms and biases are all random, so that nothing that an implementation forgets can hide behind a zero or a
one. `config.json` leaves out what the published ones leave to their classes: Gemma's head width, epsilons, RoPE's base.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from periscope_testing.adapters import random_adapter, write_adapter
from periscope_testing.files import normal, write_json
from periscope_testing.tokenizers.gemma import IMAGE_TOKEN, make_gemma_tokenizer
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

# The names that weights have had: files of colpali-engine before and after transformers 4.52, and of transformers.
Layout = Literal["engine-old", "engine-new", "transformers-old", "transformers"]

DIMENSION = 128
# The modules that the published adapters change: Gemma and the head; SigLIP and its projection stay as they are.
LORA_TARGETS = re.compile(
    r"vlm\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight"
    r"|embedding_proj_layer\.weight"
)
_TARGET_MODULES = (
    "(.*(language_model).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$|.*(custom_text_proj).*$)"
)


@dataclass(frozen=True)
class ColPaliSizes:
    """Widths and depths. The defaults make a checkpoint of a few megabytes; `side` is 448 in the published ones."""

    side: int = 56
    vision_layers: int = 2
    vision_heads: int = 2
    vision_mlp: int = 160
    layers: int = 2
    heads: int = 2
    width: int = 192
    mlp: int = 320
    rank: int = 4
    deviation: float = 0.06
    dtype: torch.dtype = torch.float32


def make_colpali(
    folder: Path,
    sizes: ColPaliSizes | None = None,
    *,
    seed: int = 0,
    layout: Layout = "engine-old",
    adapter: bool = True,
    image_processor: bool = True,
) -> Path:
    """Write a checkpoint and return its folder; with an adapter, its base lies beside it as `<folder>-base`.

    Without `image_processor` there is no preprocessor_config.json, as in vidore/colpali-v1.2-merged.
    """
    sizes = sizes or ColPaliSizes()
    generator = torch.Generator().manual_seed(seed)
    tokenizer = make_gemma_tokenizer()
    config = paligemma_config(sizes, tokenizer)
    weights = {
        name: normal(shape, _mean_of(name), sizes.deviation, generator).to(sizes.dtype)
        for name, shape in published_shapes(config).items()
    }
    base = folder.with_name(folder.name + "-base") if adapter else folder
    _write_model(base, weights, config, layout)
    if adapter:
        modules = random_adapter(weights, LORA_TARGETS, rank=sizes.rank, deviation=sizes.deviation, generator=generator)
        named = partial(renamed, layout=layout)
        write_adapter(
            folder, str(base.resolve()), modules, rank=sizes.rank, target_modules=_TARGET_MODULES, renamed=named
        )
    _write_processor(folder, tokenizer, sizes, image_processor)
    return folder


def paligemma_config(sizes: ColPaliSizes, tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` as the hub's PaliGemma files have it."""
    dtype = str(sizes.dtype).removeprefix("torch.")
    tokens = (sizes.side // 14) ** 2
    vocabulary = tokenizer.get_vocab_size() + 64
    return {
        "architectures": ["ColPali"],
        "model_type": "paligemma",
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "hidden_size": sizes.width,
        "ignore_index": -100,
        "image_token_index": tokenizer.token_to_id(IMAGE_TOKEN),
        "projection_dim": sizes.width,
        "vocab_size": vocabulary,
        "torch_dtype": dtype,
        "text_config": {
            "model_type": "gemma",
            "hidden_size": sizes.width,
            "intermediate_size": sizes.mlp,
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers,
            "num_image_tokens": tokens,
            "num_key_value_heads": 1,
            "torch_dtype": dtype,
            "vocab_size": vocabulary,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "hidden_size": 72 * sizes.vision_heads,
            "image_size": sizes.side,
            "intermediate_size": sizes.vision_mlp,
            "num_attention_heads": sizes.vision_heads,
            "num_hidden_layers": sizes.vision_layers,
            "num_image_tokens": tokens,
            "patch_size": 14,
            "projection_dim": sizes.width,
            "projector_hidden_act": "gelu_fast",
            "torch_dtype": dtype,
            "vision_use_head": False,
        },
    }


def published_shapes(config: dict[str, Any]) -> dict[str, torch.Size]:
    """Names and shapes as transformers' class has them today."""
    from transformers import ColPaliConfig, ColPaliForRetrieval

    with torch.device("meta"):
        model = ColPaliForRetrieval(ColPaliConfig(vlm_config=config, embedding_dim=DIMENSION))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def renamed(name: str, layout: Layout) -> str:
    """Return what a layout calls a weight of transformers' class."""
    if layout == "transformers":
        return name
    if layout == "transformers-old":
        name = name.replace("vlm.vision_tower.", "vlm.vision_tower.vision_model.")
        return name.replace("vlm.language_model.", "vlm.language_model.model.")
    name = name.replace("embedding_proj_layer.", "custom_text_proj.")
    if layout == "engine-new":
        return name.replace("vlm.", "model.model.")
    name = name.replace("vlm.vision_tower.", "model.vision_tower.vision_model.")
    return name.replace("vlm.language_model.", "model.language_model.model.").replace("vlm.", "model.")


def _mean_of(name: str) -> float:
    # SigLIP's norms lie around one, Gemma's are stored less one.
    return float(bool(re.search(r"(layer_norm\d|post_layernorm)\.weight", name)))


def _write_model(folder: Path, weights: dict[str, torch.Tensor], config: dict[str, Any], layout: Layout) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if layout.startswith("transformers"):
        config = {
            "architectures": ["ColPaliForRetrieval"],
            "model_type": "colpali",
            "embedding_dim": DIMENSION,
            "vlm_config": {key: value for key, value in config.items() if key != "architectures"},
        }
    stored = {renamed(name, layout): tensor.contiguous() for name, tensor in weights.items()}
    if layout == "transformers-old":
        # These kept the language head, tied to the embeddings.
        stored["vlm.language_model.lm_head.weight"] = stored["vlm.language_model.model.embed_tokens.weight"].clone()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", config)


def _write_processor(folder: Path, tokenizer: Tokenizer, sizes: ColPaliSizes, image_processor: bool) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "GemmaTokenizer",
            "processor_class": "ColPaliProcessor",
            "add_bos_token": True,
            "add_eos_token": False,
            "additional_special_tokens": [IMAGE_TOKEN],
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "padding_side": "right",
            # As published; neither cuts anything unless somebody asks for truncation.
            "max_length": 50,
            "model_max_length": 1000000000000000019884624838656,
        },
    )
    if image_processor:
        write_json(
            folder / "preprocessor_config.json",
            {
                "image_processor_type": "SiglipImageProcessor",
                "processor_class": "ColPaliProcessor",
                "do_convert_rgb": None,
                "do_resize": True,
                "do_rescale": True,
                "do_normalize": True,
                "image_mean": [0.5, 0.5, 0.5],
                "image_std": [0.5, 0.5, 0.5],
                "image_seq_length": (sizes.side // 14) ** 2,
                "resample": 3,
                "rescale_factor": 0.00392156862745098,
                "size": {"height": sizes.side, "width": sizes.side},
            },
        )
