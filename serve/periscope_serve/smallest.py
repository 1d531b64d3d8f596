"""The smallest item of each kind, to see whether what should take it does."""

from __future__ import annotations

import struct
import zlib

WORD = b"a"


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


_SIDE = 32
PAGE = b"".join(
    (
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 0, 0, 0, 0)),
        _chunk(b"IDAT", zlib.compress((b"\0" + b"\xff" * _SIDE) * _SIDE)),
        _chunk(b"IEND", b""),
    )
)
"""A white PNG of 32 x 32 pixels."""
