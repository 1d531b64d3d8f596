"""Weights of an exported graph that are no numbers, found in its files, with neither the onnx package nor an engine.

What overflowed when it was written is infinity for ever after, and only the items that read it show it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from periscope_runtime.protobuf_wire import Field, fields

# The count of numbers that are looked at together.
_CHUNK = 1 << 24

# The bits that are all set in what is no number, by the type that has as many: IEEE's exponents; fp8's only such word.
_FLOAT32, _FLOAT16, _FLOAT64 = (np.uint32, 0x7F800000), (np.uint16, 0x7C00), (np.uint64, 0x7FF0000000000000)
_BFLOAT16, _FLOAT8E4M3FN = (np.uint16, 0x7F80), (np.uint8, 0x7F)
_ONNX_TYPES: dict[int, tuple[Any, int]] = {
    1: _FLOAT32, 10: _FLOAT16, 11: _FLOAT64, 16: _BFLOAT16, 17: _FLOAT8E4M3FN
}  # fmt: skip
_OPENVINO_TYPES: dict[str, tuple[Any, int]] = {
    "f32": _FLOAT32, "f16": _FLOAT16, "f64": _FLOAT64, "bf16": _BFLOAT16, "f8e4m3": _FLOAT8E4M3FN
}  # fmt: skip

# Numbers of the fields on the way to a weight (onnx.proto): of a model, a graph, a tensor, an entry of external data.
_GRAPH, _INITIALIZER = 7, 5
_DATA_TYPE, _NAME, _RAW_DATA, _EXTERNAL_DATA = 2, 8, 9, 13
_KEY, _VALUE = 1, 2


class _Weight(NamedTuple):
    """A stored tensor: where its bytes are, and the bits that are set in what is no number."""

    name: str
    words: Any
    bits: int
    file: Path
    offset: int
    length: int


def not_finite(graph: Path) -> list[str]:
    """Return the names of the weights of `model.onnx` or `model.xml` that hold infinity or nan; single numbers may.

    Raises `ValueError` or `OSError` for files that cannot be read.
    """
    stored = _of_openvino(graph) if graph.suffix == ".xml" else _of_onnx(graph)
    return [weight.name for weight in stored if _is_spoilt(weight)]


def _is_spoilt(weight: _Weight) -> bool:
    size = np.dtype(weight.words).itemsize
    count = weight.length // size
    if count < 2:
        return False  # constants of the graph: masks are minus infinity, a pair of nothing is nan
    words: npt.NDArray[Any] = np.memmap(weight.file, weight.words, "r", weight.offset, (count,))
    bits = weight.words(weight.bits)
    return any(bool(((words[start : start + _CHUNK] & bits) == bits).any()) for start in range(0, count, _CHUNK))


def _of_onnx(graph: Path) -> Iterator[_Weight]:
    with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for part in fields(data, 0, len(data)):
            if part.number == _GRAPH:
                for tensor in fields(data, part.begin, part.end):
                    if tensor.number == _INITIALIZER and (weight := _of_tensor(graph, data, tensor)):
                        yield weight


def _of_tensor(graph: Path, data: mmap.mmap, tensor: Field) -> _Weight | None:
    name, kind, file, offset, length = "", 0, graph, 0, 0
    for part in fields(data, tensor.begin, tensor.end):
        if part.number == _NAME:
            name = data[part.begin : part.end].decode()
        elif part.number == _DATA_TYPE:
            kind = part.value
        elif part.number == _RAW_DATA:
            offset, length = part.begin, part.end - part.begin
        elif part.number == _EXTERNAL_DATA:
            entry = {one.number: data[one.begin : one.end].decode() for one in fields(data, part.begin, part.end)}
            if entry[_KEY] == "location":
                file = graph.parent / entry[_VALUE]
            elif entry[_KEY] == "offset":
                offset = int(entry[_VALUE])
            elif entry[_KEY] == "length":
                length = int(entry[_VALUE])
    return _Weight(name, *_ONNX_TYPES[kind], file, offset, length) if kind in _ONNX_TYPES else None


def _of_openvino(graph: Path) -> Iterator[_Weight]:
    for layer in ElementTree.parse(graph).getroot().iterfind("layers/layer[@type='Const']"):
        data = layer.find("data")
        kind = "" if data is None else data.get("element_type", "")
        if data is not None and kind in _OPENVINO_TYPES:
            where = int(data.get("offset", 0)), int(data.get("size", 0))
            yield _Weight(layer.get("name", ""), *_OPENVINO_TYPES[kind], graph.with_suffix(".bin"), *where)
