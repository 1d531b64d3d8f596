"""Files of a checkpoint: JSON, tensors, random values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file


def write_json(path: Path, data: object) -> None:
    """Write a file as the hub's are: two blanks an indent, a line break at the end."""
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def rewrite_json(path: Path, **entries: object) -> None:
    """Change entries of a file that holds a mapping."""
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | entries)


def write_tensors(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors in two shards and their index, as every published model of this size has them."""
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: tensors[name].contiguous() for name in members}, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, members in shards.items() for name in members}
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


def write_torch(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as torch saves them, in one file."""
    torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "pytorch_model.bin")


def normal(shape: Iterable[int], centre: float, deviation: float, generator: torch.Generator) -> torch.Tensor:
    """Return float32 values around `centre`."""
    return centre + deviation * torch.randn(tuple(shape), generator=generator)
