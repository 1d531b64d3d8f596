"""Items that may be embedded, their names, and the bytes that are sent for them."""

from __future__ import annotations

import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from periscope_client._content_warning import say
from periscope_client._documents import PdfPage
from periscope_client._errors import InvalidInput
from periscope_client._grey import for_drawing, is_deep
from periscope_client._image_file import DEEP, sendable
from periscope_client._limits import NO_LIMITS, READ, Limits
from periscope_client._source import unreadable
from periscope_client._tiff import TiffPage

NAME_LENGTH = 40

# The share of the limit of bytes for the next rendering of a page that was above: fewer pixels take more bytes each.
BYTES_MARGIN = 0.9

# Modes that a PNG can hold, or else a TIFF; the others become RGB here as they would on the server, which must see
# transparency though.
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
TIFF_MODES = {"I", "F"}
TRANSPARENT_MODES = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}

_loading = threading.Lock()


@dataclass(frozen=True)
class BrokenItem:
    """Stands in for an item that could not be made, so that it fails in its place and alone."""

    name: str
    reason: InvalidInput


ImageItem: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | PdfPage | TiffPage | BrokenItem"


def item_name(item: object) -> str:
    """The item's name in results and messages: its path, its page, or its kind."""
    if isinstance(item, PdfPage | TiffPage | BrokenItem):
        return item.name
    if isinstance(item, str | os.PathLike):
        return os.fspath(item)
    if isinstance(item, bytes):
        return f"{len(item)} bytes"
    if isinstance(item, Image.Image):
        filename = getattr(item, "filename", "")
        return str(filename) if filename else f"{item.width}x{item.height} image"
    return type(item).__name__


def shorten(text: str, length: int = NAME_LENGTH) -> str:
    """`text` on one line, at most so many characters long."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def encode_text(item: object, limits: Limits = NO_LIMITS) -> bytes:
    """The UTF-8 bytes of a text. Raises InvalidInput."""
    if not isinstance(item, str):
        raise InvalidInput(f"a text is a str, not {type(item).__name__}", READ)
    try:
        data = item.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the text is not valid Unicode ({error.reason})", READ) from None
    limits.check_text(len(data))
    return data


def encode_image(item: object, limits: Limits = NO_LIMITS) -> bytes:
    """The bytes of an image file: read, or written. Slow: call it in a thread. Raises InvalidInput."""
    if isinstance(item, BrokenItem):
        raise item.reason
    if isinstance(item, str | os.PathLike | bytes):
        return _file_bytes(item, limits)
    if isinstance(item, PdfPage):
        return _rendered(item, limits)
    if isinstance(item, TiffPage):
        image = item.read(limits)
        if is_deep(image):
            item.sayings.say("deep", DEEP)
        return _written(image, limits)
    if isinstance(item, Image.Image):
        if item.format == "TIFF" and getattr(item, "is_animated", False):
            raise InvalidInput(
                "a PIL image over a TIFF of several images: embed image.copy() of the one that is meant, or "
                "periscope_client.tiff_pages(path)",
                READ,
            )
        if is_deep(item):
            say(item_name(item), DEEP)
        return _written(item, limits)
    raise InvalidInput(f"an image is a path, bytes or a PIL image, not {type(item).__name__}", READ)


def _file_bytes(item: str | os.PathLike[str] | bytes, limits: Limits) -> bytes:
    def write(image: Image.Image) -> bytes:
        return _written(image, limits)

    try:
        with io.BytesIO(item) if isinstance(item, bytes) else Path(item).open("rb") as file:
            # A pipe can be read only once.
            seekable = file if file.seekable() else io.BytesIO(file.read())
            return sendable(seekable, item_name(item), limits, write)
    except (OSError, ValueError) as error:
        raise unreadable(item, error) from None


def _rendered(page: PdfPage, limits: Limits) -> bytes:
    """The page as PNG, rendered smaller until it is within the limits."""
    pixels = limits.page_pixels
    while True:
        image = page.render(pixels)
        content = _png(image)
        if limits.image_bytes is None or len(content) <= limits.image_bytes or pixels == 1:
            limits.check_bytes(len(content))
            return content
        share = BYTES_MARGIN * limits.image_bytes / len(content)
        pixels = max(1, int(image.width * image.height * share))


def open_image(item: object) -> Image.Image:
    """An image as the server sees it, or nearly so: RGB, upright, transparency over white. Raises InvalidInput."""
    content = encode_image(item)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            image = _upright(opened)
        if is_deep(image):
            image = for_drawing(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    # See `_png`.
    except Exception as error:
        raise InvalidInput(f"the image cannot be drawn upon ({error})", READ) from None


def _written(image: Image.Image, limits: Limits) -> bytes:
    """The image as a file that loses nothing of what the server sees. Raises: InvalidInput, also above the limits."""
    limits.check_pixels(image.size)
    content = _png(image)
    limits.check_bytes(len(content))
    return content


def _png(image: Image.Image) -> bytes:
    """PNG; TIFF for numbers that a PNG cannot hold."""
    file = io.BytesIO()
    try:
        # One lazily opened image may be in a list twice, and loading it is not thread-safe.
        with _loading:
            image.load()
        image = _upright(image)
        if image.mode in TIFF_MODES:
            image.save(file, "TIFF", compression="tiff_adobe_deflate")
            return file.getvalue()
        if image.mode.startswith("I;16") and image.mode not in PNG_MODES:
            # In another byte order, which Pillow does not write.
            image = Image.fromarray(np.asarray(image).astype(np.uint16))
        elif image.mode not in PNG_MODES:
            image = image.convert(TRANSPARENT_MODES.get(image.mode, "RGB"))
        image.save(file, "PNG", compress_level=1)
    # Pillow's decoders raise whatever they stumble over: OSError, SyntaxError, ValueError, struct.error...
    except Exception as error:
        raise InvalidInput(f"the image cannot be decoded ({' '.join(str(error).split())})", READ) from None
    return file.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the EXIF orientation says. The server does that for a file, but a PNG written here says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    # Metadata that cannot be read is no reason to refuse pixels that can; the server thinks so too.
    except Exception:
        return image
