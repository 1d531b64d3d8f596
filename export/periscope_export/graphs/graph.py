"""A filled step to an ONNX graph with external data."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
import torch
from torch import nn
from torch.export import Dim

from periscope_export.graphs.tracing import quicker
from periscope_export.models.steps import Step, TensorSpec, split_axis

OPSET = 23  # the first with Attention and RMSNormalization as operators
GRAPH_FILE = "model.onnx"
_PLACE = "periscope.place"

Tensors = Mapping[str, npt.NDArray[Any]]


def export_graph(step: Step, module: nn.Module, example: Tensors, folder: Path) -> Path:
    """Write `model.onnx` and its external data into `folder` and return the graph's path.

    `example` holds one array an input; its free axes need at least two entries, or the exporter takes them for fixed.
    It is cast to the dtypes of the step's inputs, which are those of the module's weights where the precision decides.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / GRAPH_FILE
    arguments, named = _arguments(step, module, example)
    with _quiet(), quicker(), torch.no_grad():
        program = torch.onnx.export(
            module,
            arguments,
            kwargs=named,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in step.inputs],
            output_names=[spec.name for spec in step.outputs],
            dynamic_shapes=_dynamic_shapes(step),
            verbose=False,
        )
        assert program is not None
        _name_nodes(program.model)
        program.save(str(path), external_data=bool(program.model.graph.initializers))
        # The exporter's rewrite rules remember the last graph that they matched; let that not keep its weights.
        for value in program.model.graph.initializers.values():
            value.const_value = None
    return path


def example(step: Step, samples: Mapping[str, Tensors]) -> Tensors:
    """Return the tensors of a path with at least two entries along each free axis; where there is one it is repeated.

    Paths of images before those of texts, which have no visual tokens.
    """

    def doubled(spec: TensorSpec, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
        for index, axis in enumerate(spec.axes):
            if isinstance(axis, str) and tensor.shape[index] == 1:
                tensor = np.repeat(tensor, 2, axis=index)
        return tensor

    def fits(tensors: Tensors) -> bool:
        return all(tensors[spec.name].size for spec in step.inputs)

    tensors = next(samples[path.name] for path in reversed(step.paths) if fits(samples[path.name]))
    return {spec.name: doubled(spec, tensors[spec.name]) for spec in step.inputs}


def _name_nodes(model: onnx_ir.Model) -> None:
    """Call each node by its module and operator, and keep of the exporter's notes only where in our code it is made.

    "layers.0.self_attn.q_proj/matmul", "models/decoder.py:123": what engines say of a node can be read, and
    the same weights give the same file anywhere.
    """
    model.metadata_props.clear()
    model.doc_string = None
    for node in model.graph.all_nodes():
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "['', '']"))
        place = _place(node.metadata_props.get("pkg.torch.onnx.stack_trace", ""))
        # A scope that begins with _ is the exporter's own word for "in no module".
        module = "" if scopes[-2].startswith("_") else scopes[-2]
        node.name = "/".join(filter(None, (module, (node.name or "").removeprefix("node_"))))
        node.metadata_props.clear()
        node.doc_string = None
        if place:
            node.metadata_props[_PLACE] = place
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()


def _place(stack_trace: str) -> str:
    """Return the innermost line of our package in a stack trace, "" where there is none."""
    package = Path(__file__).parents[1]
    frames = re.findall(r'File "(.+)", line (\d+)', stack_trace)
    ours = [(Path(file), line) for file, line in frames if Path(file).is_relative_to(package)]
    return f"{ours[-1][0].relative_to(package).as_posix()}:{ours[-1][1]}" if ours else ""


def places(graph: Path) -> dict[str, str]:
    """Return where in this package each node of a graph is made, by the node's name."""
    model = onnx.load(graph, load_external_data=False)
    notes = {node.name: {note.key: note.value for note in node.metadata_props} for node in model.graph.node}
    return {name: props[_PLACE] for name, props in notes.items() if _PLACE in props}


def module_runner(step: Step, module: nn.Module) -> Callable[[str, Tensors], dict[str, npt.NDArray[Any]]]:
    """Return a function that runs this step in PyTorch on numpy arrays; its first argument, a name, is ignored.

    Tensors go in with the step's dtypes; numbers come out as float32, since numpy has no bfloat16.
    """

    def run(_: str, tensors: Tensors) -> dict[str, npt.NDArray[Any]]:
        with torch.inference_mode():
            arguments, named = _arguments(step, module, tensors)
            result = module(*arguments, **named)
        results = result if isinstance(result, tuple) else (result,)
        return {spec.name: tensor.to(torch.float32).numpy() for spec, tensor in zip(step.outputs, results, strict=True)}

    return run


def _arguments(
    step: Step, module: nn.Module, tensors: Tensors
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Return the inputs that a module takes by their places, and those that it takes by name."""
    given = {
        spec.name: torch.from_numpy(np.ascontiguousarray(tensors[spec.name])).to(getattr(torch, spec.dtype))
        for spec in step.inputs
    }
    parameters = inspect.signature(module.forward).parameters.values()
    named = {one.name for one in parameters if one.kind is one.KEYWORD_ONLY} & given.keys()
    return tuple(given[name] for name in given if name not in named), {name: given[name] for name in sorted(named)}


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
