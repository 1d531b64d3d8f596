"""The bytes that are sent for an image, and what items are called."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from periscope_client._documents import pdf_pages
from periscope_client._errors import InvalidInput
from periscope_client._items import encode_image, item_name, shorten


def decoded(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encode_image(image)))


@pytest.mark.parametrize(
    ("mode", "colour", "sent"),
    [
        ("LA", (200, 100), "LA"),
        ("La", (50, 100), "LA"),
        ("PA", (0, 100), "RGBA"),
        ("RGBA", (1, 2, 3, 100), "RGBA"),
        ("RGBa", (1, 2, 3, 100), "RGBA"),
    ],
)
def test_transparency_reaches_the_server(mode: str, colour: tuple[int, ...], sent: str) -> None:
    received = decoded(Image.new(mode, (4, 4), colour))
    assert received.mode == sent
    assert received.getpixel((0, 0))[-1] == 100  # type: ignore[index]


def test_transparent_palette_colour_is_kept() -> None:
    image = Image.new("P", (4, 4), 0)
    image.info["transparency"] = 0
    assert decoded(image).info["transparency"] == 0


def test_unreadable_metadata_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> None:
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    assert decoded(Image.new("RGB", (3, 4))).size == (3, 4)


def test_the_callers_image_is_left_alone() -> None:
    image = Image.new("CMYK", (3, 4))
    encode_image(image)
    assert image.mode == "CMYK"


def test_names() -> None:
    assert item_name(Path("scans/a.png")) == "scans/a.png"
    assert item_name(b"12345") == "5 bytes"
    assert item_name(Image.new("RGB", (3, 4))) == "3x4 image"
    assert item_name(3.5) == "float"
    assert shorten("one\n two") == "one two"
    assert shorten("x" * 41) == "x" * 39 + "…"


def test_a_url_is_no_path() -> None:
    for read in (encode_image, lambda url: list(pdf_pages(url))):
        with pytest.raises(InvalidInput, match=r"the file cannot be read \(it is a URL: download it"):
            read("https://example.org/a.pdf")
