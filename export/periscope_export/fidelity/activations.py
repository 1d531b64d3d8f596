"""The largest numbers inside the towers, which decide between fp16 and bf16.

fp16 ends at 65504, and some families go beyond; bf16 reaches as far as fp32 with three bits less. So the checkpoint's
own weights, and its activations on the sample pages and queries, decide, not its family's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from periscope_export.graphs.precision import Precision
from periscope_export.graphs.weight_range import largest_weights

# A quarter of what fp16 can hold: real pages go further than the samples.
LIMIT = float(torch.finfo(torch.float16).max) / 4


class Activation(NamedTuple):
    """The largest absolute value that a module of a step takes, gives or holds, and which module or weight that is."""

    value: float
    module: str


class Choice(NamedTuple):
    """A precision, and the largest activation, or weight, of each step that decided it."""

    precision: Precision
    largest: dict[str, Activation]

    def as_json(self) -> dict[str, Any]:
        """Return what `fidelity.json` says of it."""
        return {"limit": LIMIT, **{step: found._asdict() for step, found in self.largest.items()}}

    def __str__(self) -> str:
        step, found = max(self.largest.items(), key=lambda item: _size(item[1]))
        comparison = "within" if self.precision == "fp16" else "beyond"
        return (
            f"{self.precision}: the largest number, {found.value:.4g} at {step}.{found.module}, is {comparison} "
            f"{LIMIT:.4g}, a quarter of what fp16 holds"
        )


def choice(largest: Mapping[str, Activation]) -> Choice:
    """Return fp16, or bf16 where a weight or an activation of a step comes near the end of fp16."""
    # Not "greater than": a nan is no fp16 either.
    fits = all(activation.value <= LIMIT for activation in largest.values())
    return Choice("fp16" if fits else "bf16", dict(largest))


def largest_of(module: nn.Module, run: Callable[[], None]) -> Activation:
    """Return the largest number in a module's weights, also those that no sample reads, and in what `run` makes."""
    with watched(module) as found:
        run()
    found += [Activation(value, name) for name, value in largest_weights(module).items()]
    return max(found, key=_size, default=Activation(0.0, ""))


def _size(activation: Activation) -> tuple[bool, float]:
    return math.isnan(activation.value), activation.value


@contextmanager
def watched(module: nn.Module) -> Iterator[list[Activation]]:
    """Yield a list that grows by the largest input and output of every module below this one, each time it runs."""
    found: list[Activation] = []

    def look(name: str, tensors: Any) -> None:
        for tensor in tensors if isinstance(tensors, tuple) else (tensors,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.numel():
                found.append(Activation(float(tensor.abs().max()), name))

    def hook(name: str) -> Any:
        def watch(_: nn.Module, inputs: Any, outputs: Any) -> None:
            look(name, inputs)
            look(name, outputs)

        return watch

    # The root's own inputs and outputs are those of its modules, or float32 whatever the precision.
    handles = [inner.register_forward_hook(hook(name)) for name, inner in module.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
