"""A walk over the protobuf wire format, for the little that is read of ONNX files where the onnx package is not."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a message: its number, and its value where that is an integer, otherwise where its bytes lie."""

    number: int
    value: int
    begin: int
    end: int


# Begin and end instead of slices: a slice of the map that an exception still holds would keep it from being closed.
def fields(data: mmap.mmap, at: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message between two places of `data`.

    Raises `ValueError` for what is no message, and `IndexError` where the data ends within one.
    """
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield Field(number, value, at, at)
        elif kind == _BYTES:
            size, begin = _varint(data, at)
            at = begin + size
            if at <= end:
                yield Field(number, 0, begin, at)
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
