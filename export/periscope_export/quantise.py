"""Exported graphs to int8 or fp8: weights per output, activations per tensor, measured on samples. ModelOpt, no GPU.

Matrix products with a weight are quantised; all else, attention and embeddings too, stays as it is in the graph. What a
recipe names is kept too, or has its activations scaled token by token first (`per_token.py`).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

from periscope_export.errors import ExportError
from periscope_export.per_token import scale_tokens

Mode = Literal["int8", "fp8"]
Sample = Mapping[str, npt.NDArray[Any]]


class Quantised(NamedTuple):
    """The names of the weights that were quantised, of those kept as they were, and of those scaled token by token."""

    weights: tuple[str, ...]
    kept: tuple[str, ...]
    per_token: tuple[str, ...]


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
    Raises `ExportError` when ModelOpt is missing, a pattern finds no weight, one of `per_token` none that is quantised,
    or no weight is left to quantise.
    """
    try:
        from modelopt.onnx.quantization import quantize
    except ImportError as error:
        raise ExportError(
            f"quantise: {error}. Install the extra that brings it: pip install 'periscope-retrieval[quantise]'."
        ) from error
    model = onnx.load(graph, load_external_data=False)
    products = _weights_of_products(model.graph)
    _refuse_lost(keep, products, "There are")
    kept = _found(products, keep)
    weights = tuple(weight for weight in products if weight not in kept)
    if not weights:
        raise ExportError(f"quantise: every weight of {graph.name} is kept. Keep fewer, or export it in fp16.")
    _refuse_lost(per_token, weights, "Quantised are")
    scaled = _found(weights, per_token)
    output.parent.mkdir(parents=True, exist_ok=True)
    # ModelOpt saves its input again, and leaves files beside it.
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        copy, quantised = Path(folder) / "in" / graph.name, Path(folder) / "quantised.onnx"
        copy.parent.mkdir()
        for name in _data_files(model):
            shutil.copyfile(graph.parent / name, copy.parent / name)
        scale_tokens(model.graph, scaled)
        onnx.save_model(model, copy)
        quantize(
            str(copy),
            mode,
            calibration_data_reader=_Reader(_cast(model.graph, samples)),
            calibration_eps=["cpu"],
            calibration_method="max",
            op_types_to_quantize=["MatMul"],
            # Taken as regular expressions that match from the start: node_matmul_1 must not find node_matmul_12.
            nodes_to_quantize=[f"^{re.escape(products[weight])}$" for weight in weights],
            output_path=str(quantised),
            use_external_data_format=True,
            high_precision_dtype="fp32",  # its word for: leave the graph's precision alone
            dq_only=True,  # store the quantised weights, not the originals to be quantised at every start
            enable_gemv_detection_for_trt=False,  # samples of one token must not decide what is quantised
            log_level="CRITICAL",  # a missing GPU is an error to it
        )
        _save(onnx.load(quantised), output)
    return Quantised(weights, kept, scaled)


def _weights_of_products(graph: onnx.GraphProto) -> dict[str, str]:
    """Map the weight of each product with one to the product's node."""
    initializers = {tensor.name for tensor in graph.initializer}
    return {
        node.input[1]: node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in initializers
    }


def _found(weights: Iterable[str], patterns: Sequence[str]) -> tuple[str, ...]:
    return tuple(weight for weight in weights if any(re.search(pattern, weight) for pattern in patterns))


def _refuse_lost(patterns: Sequence[str], weights: Iterable[str], there_are: str) -> None:
    lost = [pattern for pattern in patterns if not _found(weights, [pattern])]
    if lost:
        raise ExportError(f"quantise: {', '.join(lost)} finds no weight. {there_are}: {', '.join(weights)}.")


def _data_files(model: onnx.ModelProto) -> set[str]:
    return {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }


def _cast(graph: onnx.GraphProto, samples: Sequence[Sample]) -> list[dict[str, npt.NDArray[Any]]]:
    """Take what the graph reads from each sample, in the graph's dtypes."""
    dtypes = {
        value.name: onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in graph.input
    }
    return [{name: np.asarray(sample[name], dtype) for name, dtype in dtypes.items()} for sample in samples]


def _save(model: onnx.ModelProto, path: Path) -> None:
    data = path.with_name(path.name + ".data")
    data.unlink(missing_ok=True)  # onnx appends
    onnx.save_model(model, path, save_as_external_data=True, location=data.name)


class _Reader:
    """Samples as ModelOpt takes them from a `CalibrationDataReader`: one after another, and again after `rewind`.

    Its own reader cuts one array an input, so all shapes would have to be equal.
    """

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        self.rewind()

    def rewind(self) -> None:
        self._left: Iterator[Sample] = iter(self._samples)

    def get_first(self) -> Sample:
        return self._samples[0]

    def get_next(self) -> Sample | None:
        return next(self._left, None)
