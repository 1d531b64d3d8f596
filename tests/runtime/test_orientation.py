"""Photographs are turned as their EXIF orientation says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from periscope_runtime.recipe import Limits
from runtime.pictures import Pixels, decoded, encode, reopen, with_alpha

# The EXIF standard's words: where the file's first row and first column are on the upright picture.
UPRIGHT: dict[int, Callable[[Pixels], Any]] = {
    1: lambda stored: stored,  # top, left
    2: lambda stored: stored[:, ::-1],  # top, right
    3: lambda stored: stored[::-1, ::-1],  # bottom, right
    4: lambda stored: stored[::-1],  # bottom, left
    5: lambda stored: stored.swapaxes(0, 1),  # left, top
    6: lambda stored: np.rot90(stored, -1),  # right, top
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda stored: np.rot90(stored),  # left, bottom
}
FORMATS: dict[str, dict[str, Any]] = {"JPEG": {}, "PNG": {}, "WEBP": {"lossless": True}}
BROKEN = {
    "no directory": b"Exif\0\0" + b"no directory at all",
    "cut": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    "outside": b"Exif\0\0II*\0\xff\xff\xff\xff",
    "empty": b"Exif\0\0",
}


def exif(orientation: Any) -> Image.Exif:
    written = Image.Exif()
    written[ExifTags.Base.Orientation] = orientation
    return written


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_orientation_is_turned_upright(
    picture: Image.Image, limits: Limits, orientation: int, file_format: str
) -> None:
    data = encode(picture, file_format, exif=exif(orientation), **FORMATS[file_format])

    np.testing.assert_array_equal(decoded(data, limits), UPRIGHT[orientation](np.asarray(reopen(data))))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_tiff_is_turned_once(picture: Image.Image, limits: Limits, orientation: int, compression: str) -> None:
    tags = {int(ExifTags.Base.Orientation): orientation}
    data = encode(picture, "TIFF", tiffinfo=tags, compression=compression)

    np.testing.assert_array_equal(decoded(data, limits), UPRIGHT[orientation](np.asarray(picture)))


def test_a_turned_page_keeps_its_transparency(limits: Limits) -> None:
    image = with_alpha(21, 34)

    turned = decoded(encode(image, "PNG", exif=exif(6)), limits)

    np.testing.assert_array_equal(turned, np.rot90(decoded(encode(image, "PNG"), limits), -1))


@pytest.mark.parametrize("orientation", [0, 9, 99])
def test_an_orientation_that_does_not_exist_turns_nothing(
    picture: Image.Image, limits: Limits, orientation: int
) -> None:
    data = encode(picture, "PNG", exif=exif(orientation))

    np.testing.assert_array_equal(decoded(data, limits), np.asarray(picture))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("broken", BROKEN)
def test_exif_that_cannot_be_read_is_no_reason_to_refuse_the_page(
    picture: Image.Image, limits: Limits, broken: str, file_format: str
) -> None:
    plain = encode(picture, file_format, **FORMATS[file_format])
    data = encode(picture, file_format, exif=BROKEN[broken], **FORMATS[file_format])

    np.testing.assert_array_equal(decoded(data, limits), decoded(plain, limits))
