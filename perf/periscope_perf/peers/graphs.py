"""One exported graph in the engine that a repository is for, called from Python: what `bare_loop.py` runs.

Settings are those of the server's own backends, with all threads for each graph: they run one after the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from periscope_runtime.completion import Wanted

Array = NDArray[Any]


class Graph(ABC):
    """A graph. `inputs`: what it takes, by name."""

    # The engine, as its package is called.
    package: str
    inputs: dict[str, Wanted]

    @abstractmethod
    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Take the inputs from tensors, by name, and return the outputs."""


class InOnnxRuntime(Graph):
    """A graph in ONNX Runtime."""

    package = "onnxruntime"

    def __init__(self, path: Path, threads: int) -> None:
        """Open a session: the graph's own types say in which precision it computes."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._outputs = [node.name for node in self._session.get_outputs()]
        self.inputs = {
            node.name: Wanted(_ONNX_TYPES[node.type], node.shape[-1] if isinstance(node.shape[-1], int) else None)
            for node in self._session.get_inputs()
        }

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """See `Graph`."""
        found = self._session.run(self._outputs, {name: tensors[name] for name in self.inputs})
        return dict(zip(self._outputs, found, strict=True))


class InOpenVINO(Graph):
    """A graph in OpenVINO, with one infer request, in bfloat16 where the graph itself says nothing else."""

    package = "openvino"

    def __init__(self, path: Path, threads: int) -> None:
        """Compile it."""
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        # By place: a compiled graph may call its tensors by further names.
        self._outputs = [port.get_any_name() for port in model.outputs]
        self.inputs = {}
        for port in model.inputs:
            *_, last = port.partial_shape
            width = None if last.is_dynamic else last.get_length()
            self.inputs[port.get_any_name()] = Wanted(np.dtype(port.element_type.to_dtype()), width)
        settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads}
        self._request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """See `Graph`."""
        feed = {place: np.ascontiguousarray(tensors[name]) for place, name in enumerate(self.inputs)}
        # Outputs are copied: the next item's would be written over them.
        found = self._request.infer(feed, share_inputs=True)
        return {name: found[place] for place, name in enumerate(self._outputs)}


_ONNX_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(bool)": np.dtype(np.bool_),
}

_BY_FILE: dict[str, type[InOnnxRuntime] | type[InOpenVINO]] = {"model.onnx": InOnnxRuntime, "model.xml": InOpenVINO}

ENGINES = ("onnxruntime", "openvino")
"""The engines of repositories whose graphs can be opened here."""


def open_graph(folder: Path, threads: int) -> Graph:
    """Open the graph that a model's version folder holds; a repository of one engine may leave a step to another."""
    name = next(name for name in _BY_FILE if (folder / name).is_file())
    return _BY_FILE[name](folder / name, threads)


def versions(graphs: Iterable[Graph]) -> dict[str, str]:
    """Versions of what computes."""
    return {name: version(name) for name in (*sorted({graph.package for graph in graphs}), "numpy", "pillow")}
