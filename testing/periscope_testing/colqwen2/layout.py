"""The published layouts of ColQwen2: what its weights are called, and what its adapters change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer

from periscope_testing import adapters
from periscope_testing.adapters import Modules
from periscope_testing.files import write_json, write_tensors
from periscope_testing.qwen2_vl import Qwen2VLSizes, class_config, qwen2_vl_config
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()

# The names that weights have had: files of colpali-engine before and after transformers 4.52, and of transformers.
Layout = Literal["engine-old", "engine-new", "transformers"]

# The modules that the published adapters change.
LORA_TARGETS = re.compile(
    r"language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight|custom_text_proj\.weight"
)
# The published processor of a model.
PROCESSORS = {
    "ColQwen2": "ColQwen2Processor",
    "ColQwen2_5": "ColQwen2_5_Processor",
    "BiQwen2_5": "BiQwen2_5_Processor",
}
_TARGET_MODULES = "(.*(model).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$|.*(custom_text_proj).*$)"


def config_of(sizes: Qwen2VLSizes, tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` as the hub's Qwen2-VL files have it: flat."""
    return qwen2_vl_config(sizes, tokenizer, "ColQwen2")


def published_shapes(config: dict[str, Any]) -> dict[str, torch.Size]:
    """Names and shapes as the published class has them today."""
    from colpali_engine import models

    with torch.device("meta"):
        model = getattr(models, config["architectures"][0])(class_config(config))
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
    write_tensors(folder, {renamed(name, layout): tensor for name, tensor in weights.items()})
    write_json(folder / "config.json", config)


def write_adapter(
    folder: Path, base: str, modules: Modules, layout: Layout, rank: int, dora: bool = False, scale: float = 1
) -> None:
    """Write an adapter on the base at `base`, for weights of the published class, to be merged times `scale`."""
    adapters.write_adapter(
        folder,
        base,
        modules,
        rank=rank,
        target_modules=_TARGET_MODULES,
        dora=dora,
        renamed=partial(renamed, layout=layout),
        lora_alpha=scale * rank,
    )
