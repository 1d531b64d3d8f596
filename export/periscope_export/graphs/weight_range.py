"""Weights that a precision cannot hold: they stop an export, also where no sample reads them.

An embedding of 4e5 is infinity in fp16, and the vectors of the one text that has its token are no numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from periscope_export.errors import ExportError
from periscope_export.graphs.precision import DTYPES, Precision
from periscope_export.models.steps import Step

# Those that hold more than fp16, by how much room they take.
_WIDER: tuple[Precision, ...] = ("bf16", "fp32")
_SHOWN = 5


def largest_weights(module: nn.Module) -> dict[str, float]:
    """Return the largest magnitude of each weight of a module; nan where a weight holds one."""
    return {name: _largest(parameter) for name, parameter in module.named_parameters()}


def require_range(step: Step, module: nn.Module, precision: Precision, stored_name: Callable[[str], str] = str) -> None:
    """Raise `ExportError` naming the weights of a step, as a float32 module, that become infinite in a precision.

    `stored_name` says what the checkpoint calls a weight.
    """
    beyond = {name: value for name, value in largest_weights(module).items() if not _holds(precision, value)}
    if not beyond:
        return
    ordered = sorted(beyond.items(), key=lambda item: -item[1])
    prefix = step.prefix or ""
    named = [f"{stored_name(prefix + name)} (up to {value:.4g})" for name, value in ordered[:_SHOWN]]
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    wider = next((other for other in _WIDER if all(_holds(other, value) for value in beyond.values())), None)
    largest = torch.finfo(DTYPES[precision]).max
    raise ExportError(
        f"weights: {precision} holds numbers up to {largest:.4g}, and these weights are larger: "
        f"{', '.join(named)}{more}. "
        + (f"Export the checkpoint in {wider}." if wider else "The checkpoint is broken: no precision holds them.")
    )


def _largest(tensor: torch.Tensor) -> float:
    # Without a second tensor of the same size. Both are nan where there is one.
    smallest, largest = tensor.aminmax()
    return max(-smallest.item(), largest.item()) if not largest.isnan() else math.nan


def _holds(precision: Precision, value: float) -> bool:
    return bool(torch.tensor(value, dtype=torch.float64).to(DTYPES[precision]).isfinite())
