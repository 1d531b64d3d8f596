"""Random weights in shards, written one after the other: a checkpoint of any size in the memory of one shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from periscope_testing.files import write_json

# Values drawn at a time, in float32.
_CHUNK = 1 << 24


def write_shards(
    folder: Path,
    shapes: Mapping[str, torch.Size],
    moments: Callable[[str], tuple[float, float]],
    *,
    dtype: torch.dtype,
    seed: int,
    shards: int,
) -> None:
    """Write normally distributed weights, and the index that says which shard holds which.

    `moments` gives mean and deviation of a weight by its name.
    """
    generator = torch.Generator().manual_seed(seed)
    total = sum(shape.numel() for shape in shapes.values())
    files: dict[str, str] = {}
    for number, names in enumerate(_split(shapes, total / shards), 1):
        file = f"model-{number:05}-of-{shards:05}.safetensors"
        tensors = {name: _normal(shapes[name], *moments(name), dtype, generator) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total * dtype.itemsize}, "weight_map": files}
    write_json(folder / "model.safetensors.index.json", index)


def _split(shapes: Mapping[str, torch.Size], share: float) -> Iterator[list[str]]:
    """Names in order, cut where another share of all values is full. Each shard holds at least one weight."""
    names: list[str] = []
    seen, full = 0, share
    for name, shape in shapes.items():
        if names and seen >= full:
            yield names
            names, full = [], full + share
        names.append(name)
        seen += shape.numel()
    yield names


def _normal(
    shape: torch.Size, mean: float, deviation: float, dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    for part in tensor.view(-1).split(_CHUNK):
        part.copy_(mean + deviation * torch.randn(part.shape, generator=generator))
    return tensor
