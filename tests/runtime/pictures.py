"""Pictures made of noise, the bytes of their files, and files that no encoder would write."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from periscope_runtime.image import decode_image
from periscope_runtime.recipe import Limits

Pixels = npt.NDArray[np.uint8]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """RGB, every value from 0 to 255."""
    random = np.random.default_rng([width, height, seed])
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def with_alpha(width: int, height: int) -> Image.Image:
    """RGBA, every transparency from 0 to 255."""
    random = np.random.default_rng([width, height])
    return Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def reopen(data: bytes) -> Image.Image:
    """The file as Pillow alone reads it."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def decoded(data: bytes, limits: Limits) -> Pixels:
    """The file as the preparation reads it."""
    image = decode_image(data, limits)
    assert image.mode == "RGB"
    return np.asarray(image)


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that declares any size, whatever it holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
