"""What may be embedded, what each item is called, and the bytes that are sent for it."""

from __future__ import annotations

import io
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageOps

from periscope_client._documents import PdfPage
from periscope_client._errors import InvalidInput

READ = "read"  # the client's own step, beside the server's

NAME_LENGTH = 40

# Modes that a PNG can hold; the others become RGB here as they would on the server, which must see transparency though.
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"}
TRANSPARENT_MODES = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}

# Not a path of any file that was meant: what is embedded is on this machine.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_loading = threading.Lock()


@dataclass(frozen=True)
class BrokenItem:
    """Stands in for an item that could not be made, so that it fails in its place and alone."""

    name: str
    reason: InvalidInput


ImageItem: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | PdfPage | BrokenItem"


def item_name(item: object) -> str:
    """What to call the item in names and messages: its path, its page, or what kind of thing it is."""
    if isinstance(item, PdfPage | BrokenItem):
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


def encode_text(item: object) -> bytes:
    """The UTF-8 bytes of a text. Raises InvalidInput."""
    if not isinstance(item, str):
        raise InvalidInput(f"a text is a str, not {type(item).__name__}", READ)
    try:
        return item.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the text is not valid Unicode ({error.reason})", READ) from None


def encode_image(item: object) -> bytes:
    """The bytes of an image file: read, or written as PNG. Slow: call it in a thread. Raises InvalidInput."""
    if isinstance(item, BrokenItem):
        raise item.reason
    if isinstance(item, str | os.PathLike):
        try:
            content = Path(item).read_bytes()
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            if isinstance(item, str) and URL.match(item):
                reason = "it is a URL: download it, and give its bytes or the file"
            raise InvalidInput(f"the file cannot be read ({reason})", READ) from None
    elif isinstance(item, bytes):
        content = item
    elif isinstance(item, Image.Image):
        content = _png(item)
    elif isinstance(item, PdfPage):
        content = _png(item.image)
    else:
        raise InvalidInput(f"an image is a path, bytes or a PIL image, not {type(item).__name__}", READ)
    if content.startswith(b"%PDF-"):
        raise InvalidInput("this is a PDF, which has pages: embed periscope_client.pdf_pages(path)", READ)
    return content


def open_image(item: object) -> Image.Image:
    """What the server sees of an image: RGB, upright, transparency over white. Raises InvalidInput."""
    content = encode_image(item)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            image = _upright(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    # See `_png`.
    except Exception as error:
        raise InvalidInput(f"the image cannot be drawn upon ({error})", READ) from None


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    try:
        # One lazily opened image may be in a list twice, and loading it is not thread-safe.
        with _loading:
            image.load()
        image = _upright(image)
        if image.mode not in PNG_MODES:
            image = image.convert(TRANSPARENT_MODES.get(image.mode, "RGB"))
        image.save(file, "PNG", compress_level=1)
    # Pillow's decoders raise whatever they stumble over: OSError, SyntaxError, ValueError, struct.error...
    except Exception as error:
        raise InvalidInput(f"the PIL image cannot be written as PNG ({error})", READ) from None
    return file.getvalue()


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the EXIF orientation says. The server does that for a file, but a PNG written here says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    # Metadata that cannot be read is no reason to refuse pixels that can; the server thinks so too.
    except Exception:
        return image
