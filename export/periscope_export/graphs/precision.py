"""Precisions of graphs: which tensors follow them, and which stay float32 whatever they are.

int8 and fp8 are fp16 graphs whose large matrix products have quantised weights and inputs (`quantise.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from periscope_export.models.mapped import mapped_tensors
from periscope_export.models.steps import Step, TensorSpec

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float16,
    "fp8": torch.float16,
}


def at(step: Step, precision: Precision) -> Step:
    """Return the step with its tensors of dtype "float" in a precision. Vectors and scores are float32 in all."""
    dtype = str(DTYPES[precision]).removeprefix("torch.")

    def resolved(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, dtype=dtype) if spec.dtype == "float" else spec for spec in specs)

    return replace(step, inputs=resolved(step.inputs), outputs=resolved(step.outputs))


def cast(module: nn.Module, precision: Precision, folder: Path | None = None) -> nn.Module:
    """Return a module like this one whose weights are of a precision, in a file of their own on the disk of `folder`.

    Buffers are shared: rotary frequencies and the statistics of pixels are computed with in float32 always; so are
    weights that are of this precision already.
    """
    dtype = DTYPES[precision]
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    parameters = [parameter for parameter in module.parameters() if parameter.dtype != dtype]
    tensors = mapped_tensors([parameter.shape for parameter in parameters], dtype, folder)
    for parameter, tensor in zip(parameters, tensors, strict=True):
        shared[id(parameter)] = nn.Parameter(tensor.copy_(parameter.data), requires_grad=False)
    return copy.deepcopy(module, shared)
