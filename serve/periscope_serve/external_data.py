"""Which files beside an ONNX graph hold its weights.

The serve extra does not bring the onnx package, and this needs little of it: a walk over the protobuf wire format that
steps over every field but those that lead to `TensorProto.external_data`.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

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
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


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


# Begin and end instead of slices: a slice of the map that an exception still holds would keep it from being closed.
def _external(data: mmap.mmap, begin: int, end: int, message: str) -> Iterator[dict[str, str]]:
    """The external_data entries of every tensor between two places of `data`."""
    entries: dict[str, str] = {}
    for number, first, last in _fields(data, begin, end):
        inside = _MESSAGES[message].get(number)
        if inside == "entry":
            pair = {field: data[a:b].decode() for field, a, b in _fields(data, first, last)}
            entries[pair[_KEY]] = pair[_VALUE]
        elif inside is not None:
            yield from _external(data, first, last, inside)
    if entries:
        yield entries


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of every length-delimited field."""
    while at < end:
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            size, begin = _varint(data, at)
            at = begin + size
            if at <= end:
                yield tag >> 3, begin, at
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
    if at > end:
        raise ValueError("a field ends after its message")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a number longer than 64 bits")
