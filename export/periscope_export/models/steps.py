"""A step: one graph of the served retriever, with the tensors that go in and come out.

The same description names the ONNX inputs, marks their free axes and writes `config.pbtxt`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any

from torch import nn

from periscope_runtime.completion import Wanted
from periscope_runtime.paths import ItemPath

# One axis: a fixed length, or a free one by its letter ("T"), possibly times a number ("4V": a multiple of four).
Axis = int | str
# Makes a module without weights.
Build = Callable[[], nn.Module]


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (numpy's word) and axes of a tensor. A batched tensor's first axis is "B".

    The dtype "float" is that of the graphs' precision; `precision.at` says which.
    """

    name: str
    dtype: str
    axes: tuple[Axis, ...]

    @property
    def dims(self) -> list[int]:
        """Axes as `config.pbtxt` writes them: -1 where free, the batch axis left out."""
        return [axis if isinstance(axis, int) else -1 for axis in self.axes if axis != "B"]

    @property
    def wanted(self) -> Wanted:
        """The tensor that a request is completed by; "float" is float32, which runs are compared in."""
        last = self.axes[-1]
        return Wanted("float32" if self.dtype == "float" else self.dtype, last if isinstance(last, int) else None)


@dataclass(frozen=True)
class Step:
    """One graph.

    `build` makes the module without weights.
    `prefix` is where its weights live among the canonical names, None for a module without any.
    `paths` says whose items pass through it.
    `keeps_prefixes`: whether the module can keep the prefixes that prompts share (`kept_prefixes.py`).
    `finish` does with the filled module, and those of the steps `after` which it comes, what is left to do; None where
    nothing is.
    `unused` matches the canonical names of weights that checkpoints have and the recipe leaves out.
    """

    name: str
    build: Build
    prefix: str | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    paths: tuple[ItemPath, ...]
    keeps_prefixes: bool = False
    finish: Callable[..., None] | None = None
    after: tuple[str, ...] = ()
    unused: str = ""

    @property
    def constants(self) -> list[Any]:
        """Frozen dataclasses that the module is built of: sizes, and what no weight holds (eps, rotation, levels)."""
        return list(_constants(self.build))

    @property
    def batched(self) -> bool:
        """Whether the server may join requests along the first axis."""
        return all(spec.axes[0] == "B" for spec in self.inputs)

    @property
    def is_tower(self) -> bool:
        """Whether it gives states, in the precision of the graphs, rather than vectors and scores, in float32."""
        return any(spec.dtype == "float" for spec in self.outputs)


def _constants(build: Any) -> Iterator[Any]:
    given = (*build.args, *build.keywords.values()) if isinstance(build, partial) else ()
    for one in given:
        if isinstance(one, partial):
            yield from _constants(one)
        elif is_dataclass(one) and not isinstance(one, type):
            yield one


def split_axis(axis: str) -> tuple[int, str]:
    """Return (4, "V") for "4V" and (1, "T") for "T"."""
    match = re.fullmatch(r"(\d*)([A-Z])", axis)
    assert match, axis
    return int(match[1] or 1), match[2]
