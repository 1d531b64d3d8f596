"""Exported graphs to int8 or fp8: weights by output channel, activations by tensor, ranges measured on samples.

Matrix products with a weight are quantised; all else, attention, embeddings and adapters chosen by row too, stays as it
is in the graph. What a recipe names is kept too, or has its activations scaled token by token first (`per_token.py`).
Weights go from file to file one by one, so that those of published sizes need no memory to speak of.

Legend: I inputs of a product, O outputs.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir
from onnx import helper, numpy_helper

from periscope_export.checkpoint.adapter_stack import DOWN, UP
from periscope_export.errors import ExportError
from periscope_export.graphs.calibrate import Sample, largest_magnitudes
from periscope_export.graphs.per_token import scale_tokens

Mode = Literal["int8", "fp8"]
Array = npt.NDArray[Any]


class Quantised(NamedTuple):
    """The names of the weights that were quantised, of those kept as they were, and of those scaled token by token."""

    weights: tuple[str, ...]
    kept: tuple[str, ...]
    per_token: tuple[str, ...]


class _Format(NamedTuple):
    """A format to round to: symmetric, so that zero stays zero. `largest` is what the largest magnitude becomes."""

    dtype: np.dtype[Any]
    largest: float

    def scale(self, name: str, magnitude: Array, dtype: np.dtype[Any]) -> Array:
        """Return, in the graph's dtype, the size of a step; 1 where all is zero.

        Raises `ExportError` for what is not finite.
        """
        if not np.isfinite(magnitude).all():
            raise ExportError(
                f"quantise: {name} is not finite on the samples: it grows beyond what {dtype} holds. Export the "
                "checkpoint in bf16 or fp32."
            )
        scale = np.where(magnitude > 0, magnitude / self.largest, 1).astype(dtype)
        # A step of zero would be divided by. What is as small as that, next to nothing, gets the smallest there is.
        return np.maximum(scale, np.finfo(dtype).smallest_subnormal)

    def rounded(self, weight_IO: Array, scale_O: Array) -> Array:
        """Return a weight in this format."""
        steps_IO = np.divide(weight_IO, scale_O, dtype=np.float32).clip(-self.largest, self.largest)
        return (np.rint(steps_IO) if self.dtype.kind == "i" else steps_IO).astype(self.dtype)


_FORMATS: dict[Mode, _Format] = {
    "int8": _Format(np.dtype(np.int8), 127),
    # Not 448, the largest number: numbers of any size have as many digits, and activations may outgrow the samples'.
    # ModelOpt's figure.
    "fp8": _Format(helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN), 127 * 127 / 448),
}


def quantise(
    graph: Path,
    output: Path,
    mode: Mode,
    samples: Sequence[Sample],
    keep: Sequence[str] = (),
    per_token: Sequence[str] = (),
) -> Quantised:
    """Write `graph` with quantised matrix products as `output`, its external data beside it.

    `samples` holds one mapping of all inputs for each run of the graph; their shapes may differ. `keep` and `per_token`
    are regular expressions: a weight whose name one of `keep` finds stays in the graph's precision; the activations
    that a weight found by one of `per_token` is multiplied with are scaled token by token. `graph` itself is not
    touched, unless it is `output`.
    Raises `ExportError` when a pattern finds no weight, one of `per_token` none that is quantised, or no weight is left
    to quantise.
    """
    model = onnx.load(graph, load_external_data=False)
    products = _weights_of_products(model.graph)
    _refuse_lost(keep, products, "There are")
    kept = _found(products, keep)
    weights = tuple(weight for weight in products if weight not in kept)
    if not weights:
        raise ExportError(f"quantise: every weight of {graph.name} is kept. Keep fewer, or export it in fp16.")
    _refuse_lost(per_token, weights, "Quantised are")
    scaled = _found(weights, per_token)
    scale_tokens(model.graph, scaled)
    inputs = {node.input[0] for node in model.graph.node if _weight(node) in weights}
    magnitudes = largest_magnitudes(model, graph.parent, sorted(inputs), samples)
    _insert(model.graph, graph.parent, weights, magnitudes, _FORMATS[mode])
    _write(model, graph.parent, output, weights, _FORMATS[mode])
    return Quantised(weights, kept, scaled)


def weights_of_products(graph: Path) -> dict[str, int]:
    """Return the weight of each product with one, and how many numbers it has."""
    model = onnx.load(graph, load_external_data=False).graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.initializer}
    return {weight: sizes[weight] for weight in _weights_of_products(model)}


def _weights_of_products(graph: onnx.GraphProto) -> list[str]:
    """Return the weight of each product with one; not those of adapters that are chosen by row."""
    # They are a few hundredths of the work, and one range for the activations of all adapters would fit none.
    stored = {tensor.name for tensor in graph.initializer if not tensor.name.endswith((DOWN, UP))}
    return list(dict.fromkeys(weight for node in graph.node if (weight := _weight(node)) in stored))


def _weight(node: onnx.NodeProto) -> str:
    """Return the name of what a product multiplies with, which may be no weight; "" for anything but a product."""
    return node.input[1] if node.op_type == "MatMul" else ""


def _found(weights: Iterable[str], patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(weight for weight in weights if any(re.search(pattern, weight) for pattern in patterns))


def _refuse_lost(patterns: Sequence[str], weights: Iterable[str], there_are: str) -> None:
    lost = [pattern for pattern in patterns if not _found(weights, [pattern])]
    if lost:
        raise ExportError(f"quantise: {', '.join(lost)} finds no weight. {there_are}: {', '.join(weights)}.")


def _insert(
    graph: onnx.GraphProto, folder: Path, weights: Sequence[str], magnitudes: Mapping[str, float], rounding: _Format
) -> None:
    """Have the products with `weights` read both their factors from the format; the weights are not rounded here."""
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.name in weights}
    nodes: list[onnx.NodeProto] = []
    factors: dict[str, str] = {}

    def add(name: str, magnitude: Array, dtype: np.dtype[Any], *operators: str) -> None:
        scale = rounding.scale(name, magnitude, dtype)
        names = [f"{name}_scale", f"{name}_zero_point"]
        for tensor, values in zip(names, (scale, np.zeros(scale.shape, rounding.dtype)), strict=True):
            graph.initializer.append(numpy_helper.from_array(values, tensor))
        # A weight has a scale for each output, an activation one.
        axis: dict[str, Any] = {"axis": 1} if scale.ndim else {}
        factors[name] = name
        for operator in operators:
            output = f"{name}/{operator}"
            nodes.append(helper.make_node(operator, [factors[name], *names], [output], name=output, **axis))
            factors[name] = output

    for node in graph.node:
        if (weight := _weight(node)) in stored:
            x, dtype = node.input[0], helper.tensor_dtype_to_np_dtype(stored[weight].data_type)
            if x not in factors:
                add(x, np.asarray(magnitudes[x]), dtype, "QuantizeLinear", "DequantizeLinear")
            if weight not in factors:
                weight_IO = numpy_helper.to_array(stored[weight], str(folder))
                add(weight, np.maximum(weight_IO.max(axis=0), -weight_IO.min(axis=0)), dtype, "DequantizeLinear")
            node.input[:] = [factors[x], factors[weight]]
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _write(model: onnx.ModelProto, folder: Path, output: Path, weights: Sequence[str], rounding: _Format) -> None:
    """Round the weights and write the graph; what it refers to in `folder` may be what is written over."""
    quantised = onnx_ir.from_proto(model)
    tensors = quantised.graph.initializers
    onnx_ir.external_data.set_base_dir(quantised.graph, folder)
    dtype = onnx_ir.DataType.from_numpy(rounding.dtype)

    def rounded(weight: onnx_ir.TensorProtocol, scale: onnx_ir.TensorProtocol) -> onnx_ir.TensorProtocol:
        return onnx_ir.Tensor(rounding.rounded(weight.numpy(), scale.numpy()), dtype)

    for name in weights:
        weight, scale = tensors[name].const_value, tensors[f"{name}_scale"].const_value
        assert weight is not None
        assert scale is not None
        # Made when it is written, and not kept.
        tensors[name].const_value = onnx_ir.LazyTensor(
            partial(rounded, weight, scale), dtype, onnx_ir.Shape(weight.shape.numpy()), name=name
        )
        tensors[name].dtype = dtype
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as new:
        written = Path(new) / output.name
        onnx_ir.save(quantised, written, external_data=f"{output.name}.data")
        for file in written.parent.iterdir():
            file.replace(output.with_name(file.name))
