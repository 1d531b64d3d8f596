"""A filled graph is to the byte the one that is traced, and whatever decides a graph is traced anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from periscope_export.graphs.graph import export_graph
from periscope_export.models.layers import Linear
from periscope_export.models.steps import Step, TensorSpec
from periscope_runtime.paths import TEXT
from traced import TracedOnce

WIDTH = 32
AXES = ("B", "T", WIDTH)
STEP = Step("step", nn.Module, None, (TensorSpec("x", "float32", AXES),), (TensorSpec("y", "float32", AXES),), (TEXT,))


class Module(nn.Module):
    """A weight, the same weight again where they are tied, a buffer, a number and a function."""

    scale: Tensor

    def __init__(self, seed: int, scale: float = 2, power: int = 2, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = Linear(WIDTH, WIDTH), Linear(WIDTH, WIDTH)
        if tied:
            self.second.weight = self.first.weight
        for parameter in self.parameters():
            nn.init.normal_(parameter)
        self.register_buffer("scale", torch.full((WIDTH,), scale))
        self.power = power
        self.function: Callable[[Tensor], Tensor] = lambda x: x + 1

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.function(self.first(x * self.scale)))
        return y**self.power


def example(tokens: int) -> dict[str, NDArray[np.float32]]:
    return {"x": np.ones((2, tokens, WIDTH), np.float32)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("tied", [False, True])
def test_a_filled_graph_is_the_traced_one(tied: bool, tmp_path: Path) -> None:
    once = TracedOnce(tmp_path / "traced")
    once(STEP, Module(1, tied=tied), example(3), tmp_path / "first")
    filled = once(STEP, Module(2, tied=tied), example(5), tmp_path / "filled")
    traced = export_graph(STEP, Module(2, tied=tied), example(5), tmp_path / "alone")
    assert (once.traced, once.filled) == (1, 1)
    assert files(filled.parent) == files(traced.parent) != files(tmp_path / "first")


def test_what_decides_a_graph_is_traced_anew(tmp_path: Path) -> None:
    once = TracedOnce(tmp_path / "traced")
    others = [Module(1), Module(1, scale=3), Module(1, power=3), Module(1, tied=True), Module(1).half()]
    for number, module in enumerate(others):
        kind = "float16" if number == 4 else "float32"
        step = Step("step", nn.Module, None, (TensorSpec("x", kind, AXES),), (TensorSpec("y", kind, AXES),), (TEXT,))
        once(step, module, example(3), tmp_path / str(number))
    assert (once.traced, once.filled) == (len(others), 0)
