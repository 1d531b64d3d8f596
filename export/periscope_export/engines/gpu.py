"""The GPU of this machine, as far as torch can use it, and steps that run on tensors there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from periscope_export.fidelity.record import Array, Run

Tensors = Mapping[str, torch.Tensor]

# Runs one step on tensors, and leaves what it gives on the GPU.
DeviceRun = Callable[[str, Tensors], dict[str, torch.Tensor]]


def missing_gpu() -> str:
    """Return why no plan can run on this machine, "" where it can."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA. Use a machine with an NVIDIA GPU and torch for CUDA"
    return "there is no NVIDIA GPU that torch can use. See what nvidia-smi says"


def on_arrays(run: DeviceRun) -> Run:
    """Return a function that runs steps on arrays, floats of any precision as float32, with one that has tensors."""

    def on_tensors(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        outputs = run(step, {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()})
        return {
            name: (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
            for name, tensor in outputs.items()
        }

    return on_tensors
