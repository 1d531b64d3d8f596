"""Files of sentence-transformers beside a checkpoint's weights: `modules.json` and a folder for each module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

CLASSES = "sentence_transformers.models"
IDENTITY, SOFTMAX = "torch.nn.modules.linear.Identity", "torch.nn.modules.activation.Softmax"

# A class and its config.
Module = tuple[str, dict[str, Any]]
# The fields of both generations of the class. What the first says of the width is wrong, as in jina-embeddings-v2.
MEAN: Module = (
    "Pooling",
    {"word_embedding_dimension": 512, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
)
LAST: Module = ("Pooling", {"embedding_dimension": 192, "pooling_mode": "lasttoken", "include_prompt": True})
NORMALIZE: Module = ("Normalize", {})


def dense(inputs: int, outputs: int, activation: str | None = IDENTITY, **config: Any) -> Module:
    """Return a dense layer, with a bias unless `config` says otherwise."""
    said = {} if activation is None else {"activation_function": activation}
    return "Dense", {"in_features": inputs, "out_features": outputs, "bias": True, **said, **config}


def write(folder: Path, *modules: Module, first: str = f"{CLASSES}.Transformer", **config: Any) -> Path:
    """Write the files and return the folder; weights of dense layers are random."""
    entries = [{"idx": 0, "name": "0", "path": "", "type": first}]
    for number, (kind, values) in enumerate(modules, start=1):
        path = f"{number}_{kind}"
        entries.append({"idx": number, "name": str(number), "path": path, "type": f"{CLASSES}.{kind}"})
        (folder / path).mkdir(exist_ok=True)
        (folder / path / "config.json").write_text(json.dumps(values))
        if kind == "Dense":
            torch.manual_seed(number)
            layer = torch.nn.Linear(values["in_features"], values["out_features"], bias=values["bias"])
            state = {f"linear.{name}": value for name, value in layer.state_dict().items()}
            save_file(state, folder / path / "model.safetensors")
    (folder / "modules.json").write_text(json.dumps(entries))
    if config:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    return folder


def linear(folder: Path, path: str, x: torch.Tensor) -> torch.Tensor:
    """A dense layer's product of vectors, before its activation."""
    stored = load_file(folder / path / "model.safetensors")
    return torch.nn.functional.linear(x, stored["linear.weight"], stored.get("linear.bias"))
