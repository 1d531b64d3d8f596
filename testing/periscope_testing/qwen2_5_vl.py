"""Parts that the systems on Qwen2.5-VL share: `config.json`, whole models, patches in the order of windows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl, qwen2_vl_config


def qwen2_5_vl_config(sizes: Qwen2VLSizes, tokenizer: Tokenizer, architecture: str) -> dict[str, Any]:
    """`config.json` as the hub's Qwen2.5-VL files have it: flat. Every second block attends to whole pages."""
    config = qwen2_vl_config(sizes, tokenizer, architecture)
    vision = {
        **config["vision_config"],
        "hidden_size": sizes.vision_width,
        "out_hidden_size": sizes.width,
        "intermediate_size": 2 * sizes.vision_width + 20,
        "hidden_act": "silu",
        "window_size": 112,
        "fullatt_block_indexes": list(range(1, sizes.vision_layers, 2)),
        "tokens_per_second": 2,
    }
    del vision["embed_dim"], vision["mlp_ratio"]
    return {**config, "model_type": "qwen2_5_vl", "vision_config": vision}


# Writes a whole Qwen2.5-VL, as Qwen and retrievers without layers of their own publish it.
make_qwen2_5_vl = partial(make_qwen2_vl, config_of=qwen2_5_vl_config, architecture="Qwen2_5_VLForConditionalGeneration")


def window_by_window(vision: Any, patches_PC: NDArray[np.uint8], grids: torch.Tensor) -> NDArray[np.uint8]:
    """Return the patches of a page in the order in which the blocks of the published vision tower have them."""
    from transformers.vision_utils import get_vision_window_index

    order, _ = get_vision_window_index(grids, vision.spatial_merge_size, vision.window_size, vision.patch_size)
    tokens = patches_PC.reshape(-1, vision.spatial_merge_unit, patches_PC.shape[-1])
    return np.ascontiguousarray(tokens[np.asarray(order)]).reshape(patches_PC.shape)
