"""A filled step to an ONNX graph with external data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir
import torch
from torch import nn
from torch.export import Dim

from periscope_export.steps import Step, TensorSpec, split_axis

OPSET = 23  # the first with Attention and RMSNormalization as operators
GRAPH_FILE = "model.onnx"

Tensors = Mapping[str, npt.NDArray[Any]]


def export_graph(step: Step, module: nn.Module, example: Tensors, folder: Path) -> Path:
    """Write `model.onnx` and its external data into `folder` and return the graph's path.

    `example` holds one array an input; its free axes need at least two entries, or the exporter takes them for fixed.
    It is cast to the dtypes of the step's inputs, which are those of the module's weights where the precision decides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / GRAPH_FILE
    arguments = tuple(
        torch.from_numpy(np.ascontiguousarray(example[spec.name])).to(getattr(torch, spec.dtype))
        for spec in step.inputs
    )
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in step.inputs],
            output_names=[spec.name for spec in step.outputs],
            dynamic_shapes=_dynamic_shapes(step),
            verbose=False,
        )
        assert program is not None
        _forget_origins(program.model)
        program.save(str(path), external_data=bool(program.model.graph.initializers))
    return path


def _forget_origins(model: onnx_ir.Model) -> None:
    """Drop the exporter's notes (stack traces with file paths): the same weights give the same file anywhere."""
    model.metadata_props.clear()
    model.doc_string = None
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def module_runner(step: Step, module: nn.Module) -> Callable[[str, Tensors], dict[str, npt.NDArray[Any]]]:
    """Return a function that runs this step in PyTorch on numpy arrays; its first argument, a name, is ignored."""

    def run(_: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        with torch.inference_mode():
            result = module(*(torch.from_numpy(np.ascontiguousarray(tensors[spec.name])) for spec in step.inputs))
        results = result if isinstance(result, tuple) else (result,)
        return {spec.name: tensor.numpy() for spec, tensor in zip(step.outputs, results, strict=True)}

    return run


def _dynamic_shapes(step: Step) -> tuple[dict[int, Any], ...]:
    dims: dict[str, Any] = {}

    def axes(spec: TensorSpec) -> dict[int, Any]:
        free = {}
        for index, axis in enumerate(spec.axes):
            if isinstance(axis, str):
                factor, letter = split_axis(axis)
                dim = dims.setdefault(letter, Dim(letter.lower(), min=1))
                free[index] = factor * dim if factor > 1 else dim
        return free

    return tuple(axes(spec) for spec in step.inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter, and torch's warnings about its own internals, off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
