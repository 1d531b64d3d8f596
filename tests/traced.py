"""Graphs traced once: a module that differs from an earlier one in its weights alone has the same graph.

Tracing is nine tenths of the export of a small checkpoint. Rows of one backbone differ in what is around their graphs,
and a checkpoint has the same graph in several engines. What is tested stays: a graph has its own module's weights, and
what an export does with a graph it does.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import onnx_ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import nn

from periscope_export.graphs.graph import GRAPH_FILE, Tensors, export_graph
from periscope_export.models.steps import Step


class TracedOnce:
    """Takes the place of `export_graph`, and traces each kind of module once."""

    def __init__(self, folder: Path) -> None:
        self.traced, self.filled = 0, 0
        self._folder = folder

    def __call__(self, step: Step, module: nn.Module, example: Tensors, folder: Path) -> Path:
        kept = self._folder / _kind(step, module)
        if kept.exists():
            self.filled += 1
            return _fill(kept / GRAPH_FILE, _weights(module), folder)
        self.traced += 1
        graph = export_graph(step, module, example, folder)
        # One that holds what was computed of a weight, instead of the weight, is good for its own module alone.
        weights, held = _weights(module), onnx_ir.load(graph).graph.initializers
        if {id(one) for one in weights.values()} == {id(weights[name]) for name in held if name in weights}:
            shutil.copytree(folder, kept)
        return graph


class _Pickler(pickle.Pickler):
    """Writes everything that a module is made of, but for what its parameters hold."""

    def __init__(self, file: io.BytesIO, module: nn.Module) -> None:
        super().__init__(file)
        self._names = {id(parameter): name for name, parameter in _weights(module).items()}

    def persistent_id(self, one: Any) -> Any:
        if isinstance(one, FunctionType) and one.__closure__ is None:
            code = one.__code__  # a lambda, too, has one
            return one.__module__, code.co_firstlineno, code.co_code, code.co_names, repr(code.co_consts)
        if not isinstance(one, torch.Tensor):
            return None
        held = self._names.get(id(one)) or one.detach().contiguous().view(torch.uint8).numpy().tobytes()
        return held, tuple(one.shape), str(one.dtype)


def _kind(step: Step, module: nn.Module) -> str:
    """Return a digest of all that decides a graph; lengths of free axes do not."""
    written = io.BytesIO()
    _Pickler(written, module).dump((step.name, step.inputs, step.outputs, module))
    return hashlib.sha256(written.getvalue()).hexdigest()


def _weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return parameters by name; one that has two names, by both."""
    return dict(module.named_parameters(remove_duplicate=False))


def _fill(graph: Path, weights: Mapping[str, nn.Parameter], folder: Path) -> Path:
    """Write a graph with other weights into a folder, as torch's exporter does."""
    model = onnx_ir.load(graph)
    for name, value in model.graph.initializers.items():
        if name in weights:
            value.const_value = TorchTensor(weights[name].detach(), name=name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / GRAPH_FILE
    onnx_ir.save(model, path, external_data=f"{GRAPH_FILE}.data" if model.graph.initializers else None)
    return path
