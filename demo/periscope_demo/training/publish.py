"""From a trained model to the files of a published checkpoint: a base in bfloat16, an adapter on it, the processor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from periscope_demo.training.adapter import adapter_tensors, published_name
from periscope_demo.training.model import TrainedRetriever
from periscope_testing.colqwen2.layout import published_shapes, write_adapter, write_model
from periscope_testing.qwen2_vl import Qwen2VLSizes, write_processor


def publish(
    model: TrainedRetriever, folder: Path, config: dict[str, Any], tokenizer: Tokenizer, sizes: Qwen2VLSizes
) -> None:
    """Write the adapter to `folder` and its base beside it as `<folder>-base`, which the adapter names relatively.

    The names are those of colpali-engine's published files. Raises KeyError for a weight that the model lacks.
    """
    base = folder.with_name(folder.name + "-base")
    trained = {
        published_name(name.replace("parametrizations.weight.original", "weight")): parameter.detach()
        for name, parameter in model.named_parameters()
    }
    # Published linear layers and convolutions are stored [out, in...]; ours [in, out].
    weights = {
        name: (trained[name].T if len(shape) > 1 and "embed_tokens" not in name else trained[name])
        .reshape(shape)
        .to(torch.bfloat16)
        for name, shape in published_shapes(config).items()
    }
    write_model(base, weights, config, "engine-old")
    write_adapter(
        folder, os.path.relpath(base, folder), adapter_tensors(model), "engine-old", rank=sizes.rank, dora=False
    )
    write_processor(folder, tokenizer, sizes, "ColQwen2Processor")
