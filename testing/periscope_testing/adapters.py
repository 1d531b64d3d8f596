"""Adapters as PEFT writes them: low-rank matrices on a base, with DoRA's magnitudes or without."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from periscope_testing.files import normal, write_json

# A weight of the base, and the tensors that its module gets, by PEFT's names for them.
Modules = Mapping[str, Mapping[str, torch.Tensor]]


def random_adapter(
    weights: Mapping[str, torch.Tensor],
    targets: re.Pattern[str],
    *,
    rank: int,
    deviation: float,
    generator: torch.Generator,
    dora: bool = False,
) -> Modules:
    """Return random matrices for each weight whose whole name is one of `targets`."""
    modules = {}
    for name in filter(targets.fullmatch, weights):
        outputs, inputs = weights[name].shape
        parts = {
            "lora_A.weight": normal((rank, inputs), 0, deviation, generator),
            "lora_B.weight": normal((outputs, rank), 0, deviation, generator),
        }
        if dora:
            norms = weights[name].float().norm(dim=1)
            parts["lora_magnitude_vector"] = norms * (1 + normal((outputs,), 0, deviation, generator))
        modules[name] = parts
    return modules


def write_adapter(
    folder: Path,
    base: str,
    modules: Modules,
    *,
    rank: int,
    target_modules: str | list[str],
    dora: bool = False,
    renamed: Callable[[str], str] = str,
    **settings: Any,
) -> None:
    """Write an adapter on the base at `base`; `settings` go into `adapter_config.json` over what it says otherwise.

    `renamed` gives the stored name of a weight.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{renamed(name).removesuffix('.weight')}.{part}": tensor.contiguous()
        for name, parts in modules.items()
        for part, tensor in parts.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_json(
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
            "target_modules": target_modules,
            **settings,
        },
    )
