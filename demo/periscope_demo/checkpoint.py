"""Random checkpoints in every published layout of ColQwen2.

Head widths are the published ones (80 in the vision tower, 128 in the language model) and everything else is small.
Weights, norms and biases are all random, so that nothing that an implementation forgets can hide behind a zero or a
one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer

from periscope_demo.layout import (
    LORA_TARGETS,
    Layout,
    Sizes,
    config_of,
    published_shapes,
    write_adapter,
    write_model,
    write_processor,
)
from periscope_demo.tokenizer import make_tokenizer

# The recipe of the shipped checkpoint.
SHIPPED_RECIPE = "colqwen2_dense"


def shipped_checkpoint() -> Path:
    """The demonstration's trained retriever: an adapter, which names its base beside it. See its model card."""
    return Path(__file__).parent / "retriever" / "colqwen2-demo"


def make_checkpoint(
    folder: Path,
    sizes: Sizes | None = None,
    *,
    seed: int = 0,
    layout: Layout = "engine-old",
    adapter: Literal["lora", "dora"] | None = "lora",
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write a checkpoint and return its folder; with an adapter, its base lies beside it as `<folder>-base`.

    `tokenizer` is one of `make_tokenizer`, by default that of no words.
    """
    sizes = sizes or Sizes()
    generator = torch.Generator().manual_seed(seed)
    tokenizer = tokenizer or make_tokenizer()
    config = config_of(sizes, tokenizer)
    weights = {
        name: _random(shape, name, generator, sizes).to(sizes.dtype) for name, shape in published_shapes(config).items()
    }
    base = folder.with_name(folder.name + "-base") if adapter else folder
    write_model(base, weights, config, layout)
    if adapter:
        modules = _adapted(weights, sizes, generator, adapter == "dora")
        write_adapter(folder, str(base.resolve()), modules, layout, sizes.rank, adapter == "dora")
    write_processor(folder, tokenizer, sizes)
    return folder


def _adapted(
    weights: Mapping[str, torch.Tensor], sizes: Sizes, generator: torch.Generator, dora: bool
) -> dict[str, dict[str, torch.Tensor]]:
    modules = {}
    for name in filter(LORA_TARGETS.fullmatch, weights):
        outputs, inputs = weights[name].shape
        parts = {
            "lora_A.weight": _random((sizes.rank, inputs), name, generator, sizes),
            "lora_B.weight": _random((outputs, sizes.rank), name, generator, sizes),
        }
        if dora:
            norms = weights[name].float().norm(dim=1)
            parts["lora_magnitude_vector"] = norms * (1 + _random((outputs,), name, generator, sizes))
        modules[name] = parts
    return modules


def _random(shape: Iterable[int], name: str, generator: torch.Generator, sizes: Sizes) -> torch.Tensor:
    centre = 1.0 if re.search(r"norm\d?\.weight|layernorm\.weight|ln_q\.weight", name) else 0.0
    return centre + sizes.deviation * torch.randn(tuple(shape), generator=generator)
