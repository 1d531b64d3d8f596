"""Adapters of several tasks in one graph: they lie side by side, and each row of a batch says which of them counts.

A linear layer with adapters computes x W + ((x A) * chosen) B. A holds the first matrices of all adapters, B the
second, and what is not of the row's own becomes 0. So all weights are constants of the graph, which engines lay out
beforehand; gathered by row instead they cost less for a page, and twice as much for a batch of queries.

B rows, T tokens, I in, O out, N adapters, R their ranks together (N * r).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from periscope_export.checkpoint.adapter_stack import DOWN
from periscope_export.checkpoint.reading import Weights
from periscope_export.errors import ExportError
from periscope_export.models.layers import Linear
from periscope_export.models.steps import Build, Step, TensorSpec

# The adapter that counts for a row, by its place among them.
ADAPTER_INDEX = TensorSpec("adapter_index", "int32", ("B", 1))


@dataclass(frozen=True)
class Stack:
    """The adapters of a step: how many there are, the rank of each, and the paths of the layers that have them."""

    adapters: int
    rank: int
    layers: tuple[str, ...]


class Choice(nn.Module):
    """The columns of A that belong to the adapter of a row."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        owner_R = torch.arange(stack.adapters, dtype=torch.int32, device="cpu").repeat_interleave(stack.rank)
        self.register_buffer("owner_R", owner_R, persistent=False)

    def forward(self, adapter_index: Tensor, dtype: torch.dtype) -> Tensor:
        """Map int32 [B, 1] to ones and zeros [B, 1, R]."""
        assert isinstance(self.owner_R, Tensor)
        return torch.eq(adapter_index, self.owner_R).unsqueeze(1).to(dtype)


class Adapters(nn.Module):
    """Changes of low rank of what a linear layer gives, of which one counts for a row."""

    def __init__(self, inputs: int, outputs: int, ranks: int) -> None:
        super().__init__()
        self.down, self.up = Linear(inputs, ranks, bias=False), Linear(ranks, outputs, bias=False)

    def forward(self, x_BTI: Tensor, chosen_B1R: Tensor) -> Tensor:
        """Map [B, T, I] and what `Choice` gives, [B, 1, R], to [B, T, O]."""
        y: Tensor = self.up(self.down(x_BTI) * chosen_B1R)
        return y


def stacking(steps: Sequence[Step], weights: Weights, names: Sequence[str]) -> tuple[Step, ...]:
    """Return the steps, those whose layers have adapters with these and `adapter_index`; the others as they are.

    `names` are the adapters in the order of the stack. A module that can choose has a `choice`, None until then; its
    `forward` takes `adapter_index` by name and hands what `choice` makes of it to its layers.
    Raises `ExportError` naming every weight whose adapters its step cannot choose by row. Those of weights that no step
    has are left to `check_weights`.
    """
    layers = {name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)}
    found = [_stacking(step, layers, weights, len(names)) for step in steps]
    reached = {f"{step.prefix}{path}" for step, stack in found if stack is not None for path in stack.layers}
    prefixes = tuple(step.prefix for step in steps if step.prefix is not None)
    if lost := sorted(layer for layer in layers - reached if layer.startswith(prefixes)):
        stored = ", ".join(weights.stored_name(f"{layer}{DOWN}") for layer in lost)
        raise ExportError(
            f"adapters: those of these weights cannot be chosen by row: {stored}. Export one of the tasks, merged,"
            f" with --task: {', '.join(names)}."
        )
    return tuple(step for step, _ in found)


def _stacking(step: Step, layers: set[str], weights: Weights, adapters: int) -> tuple[Step, Stack | None]:
    prefix = step.prefix
    own = sorted(layer for layer in layers if prefix is not None and layer.startswith(prefix))
    if prefix is None or not own:
        return step, None
    with torch.device("meta"):
        module = step.build()
    if not hasattr(module, "choice"):
        return step, None
    linear = {path for path, inner in module.named_modules() if type(inner) is Linear}
    paths = tuple(path for path in (layer.removeprefix(prefix) for layer in own) if path in linear)
    stack = Stack(adapters, weights.info(f"{own[0]}{DOWN}").shape[0] // adapters, paths)
    build = partial(_with_adapters, step.build, stack)
    return (replace(step, inputs=(*step.inputs, ADAPTER_INDEX), build=build), stack) if paths else (step, None)


def _with_adapters(build: Build, stack: Stack) -> nn.Module:
    module = build()
    for path in stack.layers:
        layer = module.get_submodule(path)
        assert isinstance(layer, Linear)
        inputs, outputs = layer.weight.shape
        layer.adapters = Adapters(inputs, outputs, stack.adapters * stack.rank)
    module.choice = Choice(stack)
    return module
