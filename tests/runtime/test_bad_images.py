"""Images that cannot be prepared: each gets a sentence with what is wrong and what to do."""

from __future__ import annotations

import struct
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from periscope_runtime.errors import PreparationError
from periscope_runtime.image import allow_pixels, decode_image
from periscope_runtime.prepare import Preparer
from periscope_runtime.recipe import Limits
from runtime.pictures import encode, noise, png
from runtime.refusals import assert_readable, refused

FORMATS = "Send a PNG, JPEG, WebP, GIF or TIFF file"


def test_zero_bytes_are_refused(preparer: Preparer) -> None:
    error = refused(preparer.image, b"")

    assert (error.problem, error.remedy) == ("is empty (0 bytes)", FORMATS)


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"hello, this is no image",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        b"%PDF-1.7\n1 0 obj\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\x89PNG\r\n\x1a\n",
        encode(noise(9, 9), "BMP"),
        encode(noise(9, 9), "PPM"),
        encode(noise(9, 9), "PDF"),
        encode(noise(9, 9), "ICO"),
        png(0, 9),
        png(9, 0),
    ],
    ids=["nul", "text", "svg", "pdf", "ps", "png-start", "bmp", "ppm", "pdf-page", "ico", "no-width", "no-height"],
)
def test_what_is_none_of_the_formats_is_refused(preparer: Preparer, data: bytes) -> None:
    error = refused(preparer.image, data)

    assert (error.problem, error.remedy) == ("is not an image that can be read", FORMATS)


def test_a_file_above_the_byte_limit_is_refused_unread(limits: Limits) -> None:
    data = encode(noise(50, 50), "PNG")

    error = refused(decode_image, data, replace(limits, image_bytes=len(data) - 1))

    assert error.problem == f"has {len(data)} bytes, above the limit of {len(data) - 1}"
    decode_image(data, replace(limits, image_bytes=len(data)))


def test_an_image_above_the_pixel_limit_is_refused(limits: Limits) -> None:
    data = encode(noise(50, 40), "PNG")

    error = refused(decode_image, data, replace(limits, image_pixels=1999))

    assert error.problem == "has 50 x 40 pixels, above the limit of 1999"
    decode_image(data, replace(limits, image_pixels=2000))


@pytest.mark.parametrize("side", [8193, 10_000, 20_000, 65_535])
def test_a_decompression_bomb_is_refused_before_anything_is_decoded(
    limits: Limits, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All the rows of the smallest, in a ten-thousandth of their size.
    bomb = png(side, side, bytes(8193 * (3 * 8193 + 1)) if side == 8193 else b"")
    assert len(bomb) < 250_000
    # The function that Pillow calls before it makes room for the pixels.
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", lambda _: pytest.fail("decoded"))

    # Pillow has a limit of its own, of which it only warns.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        error = refused(decode_image, bomb, limits)

    assert f"limit of {limits.image_pixels}" in error.problem
    assert error.remedy == "Send a smaller image, or raise the limit"


def test_a_limit_above_pillows_own_is_the_one_that_holds(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # above twice as many Pillow raises, above it warns
    wide = replace(limits, image_pixels=3000)

    assert "more pixels than the limit" in refused(decode_image, encode(noise(50, 50), "PNG"), wide).problem
    allow_pixels(wide)
    assert Image.MAX_IMAGE_PIXELS == 3000
    assert decode_image(encode(noise(50, 50), "PNG"), wide).size == (50, 50)
    allow_pixels(limits=replace(limits, image_pixels=10))
    assert Image.MAX_IMAGE_PIXELS == 3000


@pytest.mark.parametrize(("width", "height"), [(603, 3), (3, 603), (1, 201), (4020, 20)])
def test_a_strip_is_refused_for_its_aspect_ratio(preparer: Preparer, width: int, height: int) -> None:
    error = refused(preparer.image, encode(noise(width, height), "PNG"))

    assert error.problem == f"has {width} x {height} pixels, an aspect ratio of 201, above the limit of 200"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_single_pixel_is_a_page_of_four_visual_tokens(preparer: Preparer, file_format: str) -> None:
    row = preparer.image(encode(Image.new("RGB", (1, 1), (255, 255, 255)), file_format))

    assert row.patches is not None
    assert row.patches.grids == ((2, 2),)
    assert row.patches.patches_PC.min() >= 253


def test_a_gif_without_area_is_refused(preparer: Preparer) -> None:
    data = bytearray(encode(noise(30, 40).quantize(4), "GIF"))
    frame = data.index(struct.pack("<HHHH", 0, 0, 30, 40))
    data[frame + 4 : frame + 8] = bytes(4)

    refused(preparer.image, bytes(data))


def test_what_a_decoder_says_is_cut_before_objects_and_further_lines(
    preparer: Preparer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError("cannot read chunk 7 <_io.BytesIO object at 0x7f45fd3dcad0>\nin /usr/lib/decoder.so")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load_prepare", fail)

    assert refused(preparer.image, png(9, 9)).problem == "cannot be decoded (cannot read chunk 7)"


HEADERS = [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8 ", b"II*\0\x08\0\0\0"]


@given(st.sampled_from(HEADERS), st.binary(max_size=300))
@settings(deadline=None, max_examples=300)
def test_random_bytes_are_refused_or_decoded_and_nothing_else(limits: Limits, header: bytes, data: bytes) -> None:
    check_refused_or_decoded(header + data, limits)


SMALL = {name: encode(noise(24, 18), name) for name in ("PNG", "JPEG", "WEBP", "GIF", "TIFF")}


@given(st.sampled_from(sorted(SMALL)), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6))
@settings(deadline=None, max_examples=300)
def test_damaged_files_are_refused_or_decoded_and_nothing_else(
    limits: Limits, name: str, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(SMALL[name])
    for place, value in damage:
        data[place % len(data)] = value

    check_refused_or_decoded(bytes(data), replace(limits, image_pixels=1_000_000))


def check_refused_or_decoded(data: bytes, limits: Limits) -> None:
    try:
        # The server prints Pillow's warnings and goes on.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = decode_image(data, limits)
    except PreparationError as error:
        assert_readable(error)
    else:
        assert np.asarray(image).shape == (image.height, image.width, 3)
