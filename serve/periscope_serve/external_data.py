"""The files beside an ONNX graph that hold its weights.

The serve extra does not bring the onnx package, and this needs little of it: a walk over the protobuf wire format that
steps over every field but those that lead to `TensorProto.external_data`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from periscope_runtime.protobuf_wire import fields

# Field number -> the message that lies in it, for each message on the way (onnx.proto).
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2


class NotOnnxError(Exception):
    """The file is not an ONNX model."""


def external_files(path: Path) -> dict[str, int]:
    """The data files an ONNX model names, and the size each must have at least.

    Raises: NotOnnxError when the file is not one, or was damaged in what is read here.
    """
    if path.stat().st_size == 0:
        raise NotOnnxError("it is empty")
    files: dict[str, int] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            for entries in _external(data, 0, len(data), "model"):
                needed = int(entries.get("offset", 0)) + int(entries.get("length", 0))
                files[entries["location"]] = max(files.get(entries["location"], 0), needed)
        except (IndexError, KeyError, ValueError, RecursionError) as error:
            raise NotOnnxError("it does not parse as protobuf") from error
    return files


def _external(data: mmap.mmap, begin: int, end: int, message: str) -> Iterator[dict[str, str]]:
    """The external_data entries of every tensor between two places of `data`."""
    entries: dict[str, str] = {}
    for number, _, first, last in fields(data, begin, end):
        inside = _MESSAGES[message].get(number)
        if inside == "entry":
            pair = {field: data[a:b].decode() for field, _, a, b in fields(data, first, last)}
            entries[pair[_KEY]] = pair[_VALUE]
        elif inside is not None:
            yield from _external(data, first, last, inside)
    if entries:
        yield entries
