"""Fidelity's runs: the engine itself where it can run here, otherwise whatever comes closest to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from periscope_export.engines.engine import Engine
from periscope_export.engines.onnxruntime import OnnxRuntime
from periscope_export.fidelity.record import Array, Run
from periscope_export.graphs.graph import module_runner
from periscope_export.graphs.precision import Precision, at, cast
from periscope_export.models.towers import Towers


def runner(towers: Towers, precision: Precision, engine: Engine, repository: Path, name: str) -> tuple[str, Run]:
    """Return what measures an export, in words for `fidelity.json`, and the function that runs its steps."""
    if not engine.missing():
        return engine.measured_with, engine.run(repository, name, precision)
    if OnnxRuntime.computes(precision):
        graphs = OnnxRuntime()
        return graphs.measured_with, graphs.run(repository, name, precision)
    return f"the towers in {precision}, in torch, on the CPU", tower_runner(towers, precision)


def tower_runner(towers: Towers, precision: Precision) -> Run:
    """Return a function that runs the towers in a precision, each cast when needed."""
    steps = {name: at(step, precision) for name, step in towers.steps.items()}
    modules: dict[str, nn.Module] = {}

    def run(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        if step not in modules:
            modules.clear()  # one tower in a precision of its own at a time
            modules[step] = cast(towers[step], precision, towers.folder)
        return module_runner(steps[step], modules[step])(step, tensors)

    return run
