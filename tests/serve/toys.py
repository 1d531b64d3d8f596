"""Toy ONNX models in Triton repositories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from periscope_export.graphs.openvino import core

FLOAT, HALF, BFLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
INT32, INT64, STRING = TensorProto.INT32, TensorProto.INT64, TensorProto.STRING

Tensors = dict[str, tuple[int, list[int | str]]]

TABLE = np.arange(24, dtype=np.float32).reshape(8, 3)
"""The rows that the `pick` model picks from."""


def graph(
    nodes: list[onnx.NodeProto],
    inputs: Tensors,
    outputs: Tensors,
    weights: Mapping[str, NDArray[Any]] | None = None,
) -> onnx.ModelProto:
    """A checked model from nodes, `{name: (type, shape)}` and weights."""
    made = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def double(shape: list[int | str], kind: int = FLOAT) -> onnx.ModelProto:
    """y = x + x, and z = -x."""
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    return graph(nodes, {"x": (kind, shape)}, {"y": (kind, shape), "z": (kind, shape)})


def pick() -> onnx.ModelProto:
    """Rows of `TABLE`; an index out of range fails the run."""
    return graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        {"x": (INT32, ["B", "N"])},
        {"y": (FLOAT, ["B", "N", 3])},
        {"table": TABLE},
    )


def config(inputs: str, outputs: str, *more: str, batch: int = 8, backend: str = "onnxruntime") -> str:
    """A config.pbtxt of one instance; tensors are written "x FP32 [-1]; y INT32 [2,3]"."""
    lines = [f'backend: "{backend}"', f"max_batch_size: {batch}", "instance_group [{ count: 1 kind: KIND_CPU }]", *more]
    for role, tensors in (("input", inputs), ("output", outputs)):
        for tensor in filter(None, tensors.split(";")):
            name, kind, dims = tensor.split()
            lines.append(f'{role} [{{ name: "{name}" data_type: TYPE_{kind} dims: {dims} }}]')
    return "\n".join(lines) + "\n"


DOUBLE = config("x FP32 [-1]", "y FP32 [-1];z FP32 [-1]")
PYTHON = config("x FP32 [-1]", "y FP32 [-1]", backend="python")
JOINING = "dynamic_batching { max_queue_delay_microseconds: 300000 }"
"""Long enough for requests sent together to be joined, however slow the machine."""


def write(
    repository: Path, name: str, model: onnx.ModelProto | str | None, config: str | None = None, external: bool = False
) -> Path:
    """Write a model (an ONNX one, the source of a model.py, or none) and its config; returns the version folder."""
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    if isinstance(model, str):
        (folder / "model.py").write_text(model)
    elif model is not None:
        onnx.save(
            model,
            folder / "model.onnx",
            save_as_external_data=external,
            location="weights.data" if external else None,
            size_threshold=0,
        )
    if config is not None:
        (repository / name / "config.pbtxt").write_text(config)
    return folder


def save_openvino(model: onnx.ModelProto, file: Path) -> None:
    """Write a model as OpenVINO's own: an .xml file, and its weights beside it."""
    openvino.save_model(core().read_model(model.SerializeToString()), file, compress_to_fp16=False)


def ensemble(*steps: str, inputs: str = "x FP32 [-1]", outputs: str = "out FP32 [-1]", batch: int = 8) -> str:
    """An ensemble's config; a step is written "model x=tensor > y=tensor"."""
    lines = []
    for step in steps:
        name, _, maps = step.partition(" ")
        into, _, out = maps.partition(">")
        line = f'model_name: "{name}" model_version: -1'
        for key, pairs in (("input_map", into), ("output_map", out)):
            for pair in pairs.split():
                tensor, _, mapped = pair.partition("=")
                line += f' {key} {{ key: "{tensor}" value: "{mapped}" }}'
        lines.append(f"step [{{ {line} }}]")
    body = config(inputs, outputs, batch=batch).split("\n", 1)[1].replace("instance_group", "# instance_group")
    return f'platform: "ensemble"\n{body}ensemble_scheduling {{ {" ".join(lines)} }}\n'
