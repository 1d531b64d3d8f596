"""Image files before they are sent: their headers against the server's limits, and kinds that it does not read."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import BinaryIO

from PIL import Image, features

from periscope_client._content_warning import say
from periscope_client._errors import InvalidInput
from periscope_client._grey import is_deep
from periscope_client._limits import READ, Limits, refused
from periscope_client._tiff import page_places, seek

SERVED = ("PNG", "JPEG", "WEBP", "GIF", "TIFF")
# Decoded here and sent as PNG, as HEIC is.
DECODED = ("AVIF", "BMP")

# Brands in the first box of a file of the ISO base media format, which begins within so many bytes.
AVIF = {b"avif", b"avis"}
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
HEAD_BYTES = 256

DEEP = (
    "grey values of more than 8 bits are scaled to 8, so that the page keeps what it shows (the model's published code "
    "would make it white or black)"
)


def sendable(file: BinaryIO, name: str, limits: Limits, write: Callable[[Image.Image], bytes]) -> bytes:
    """The bytes to send for an open file: its own, or those that `write` gives where the server does not read its kind.

    What is no image that can be read is sent as it is: the server says so. `name` is what warnings call it.

    Raises: InvalidInput for what has several pages, is above the limits, or cannot be decoded here.
    """
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if head.startswith(b"%PDF-"):
        raise InvalidInput("this is a PDF, which has pages: embed periscope_client.pdf_pages(path)", READ)
    image = _open(file, _brands(head), limits)
    if image is not None:
        with image:
            if image.format == "TIFF":
                _seek_only_page(image)
            limits.check_pixels(image.size)
            if image.format not in SERVED:
                return write(image)
            if is_deep(image):
                say(name, DEEP)
    limits.check_bytes(file.seek(0, os.SEEK_END))
    file.seek(0)
    return file.read()


def _open(file: BinaryIO, brands: set[bytes], limits: Limits) -> Image.Image | None:
    """The image, its pixels not read yet; None where Pillow cannot tell, or not within its own limit."""
    avif, heic = bool(brands & AVIF), bool(brands & HEIC)
    if avif and not features.check("avif"):
        raise InvalidInput("this Pillow cannot read AVIF files: pip install 'pillow>=11.3'", READ)
    if heic and not avif:
        return _open_heic(file)
    try:
        return Image.open(file, formats=(*SERVED, *DECODED))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        if limits.image_pixels is not None and limits.image_pixels <= (Image.MAX_IMAGE_PIXELS or 0):
            raise refused("image", f"more than {Image.MAX_IMAGE_PIXELS} pixels", limits, "image_pixels") from None
        return None
    # Pillow raises whatever it stumbles over.
    except Exception as error:
        if avif:
            raise InvalidInput(f"the AVIF file cannot be decoded ({error})", READ) from None
        return None


def _open_heic(file: BinaryIO) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise InvalidInput("this is a HEIC file, which needs the extra heif: pip install pillow-heif", READ) from None
    try:
        image: Image.Image = HeifImageFile(file)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise InvalidInput(f"the HEIC file cannot be decoded ({error})", READ) from None
    return image


def _seek_only_page(image: Image.Image) -> None:
    """Raises: InvalidInput for a TIFF of several pages, or one that breaks off after the first."""
    if not getattr(image, "is_animated", False):
        return
    places = page_places(image)
    only = next(places)
    if next(places, None) is not None:
        raise InvalidInput("this TIFF has several pages: embed periscope_client.tiff_pages(path)", READ)
    seek(image, only)


def _brands(head: bytes) -> set[bytes]:
    """Brands that a file names for itself; none for one that is not of the format."""
    if head[4:8] != b"ftyp":
        return set()
    box = head[: int.from_bytes(head[:4], "big")]
    # After the first brand stands its version.
    return {box[place : place + 4] for place in (8, *range(16, len(box), 4))}
