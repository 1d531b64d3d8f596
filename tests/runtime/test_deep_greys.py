"""Grey values of 16 and 32 bits: the same picture in 8 bits, whatever their depth."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from periscope_runtime.grey import to_eight_bits
from periscope_runtime.image import decode_image
from periscope_runtime.recipe import Limits
from runtime.pictures import Pixels, decoded, encode, reopen
from runtime.refusals import refused

Values = npt.NDArray[Any]


def page() -> Pixels:
    """Every grey value once, [16, 16]."""
    return np.arange(256, dtype=np.uint8).reshape(16, 16)


def greys(values_HW: Values, limits: Limits, file_format: str = "TIFF") -> Pixels:
    """The preparation's reading of a file with these values, one channel."""
    pixels = decoded(encode(Image.fromarray(values_HW), file_format), limits)
    np.testing.assert_array_equal(pixels, pixels[..., :1].repeat(3, axis=2))
    return pixels[..., 0]


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
def test_the_same_page_in_more_bits_has_the_same_pixels(limits: Limits, file_format: str, depth: int) -> None:
    values = np.rint(page() * ((2**depth - 1) / 255)).astype(np.uint16)

    np.testing.assert_array_equal(greys(values, limits, file_format), page())


@pytest.mark.parametrize("kind", ["<u2", ">u2", ">i4", "<i4"])
def test_numbers_of_every_kind(limits: Limits, kind: str) -> None:
    values = page().astype(kind) * 257
    image = Image.frombytes(
        {"<u2": "I;16", ">u2": "I;16B", ">i4": "I", "<i4": "I"}[kind],
        (16, 16),
        values.astype(kind[1:] if "4" in kind else kind).tobytes(),
    )

    np.testing.assert_array_equal(decoded(encode(image, "TIFF"), limits)[..., 0], page())


def test_fractions_of_one_are_shares_of_white(limits: Limits) -> None:
    np.testing.assert_array_equal(greys((page() / 255).astype(np.float32), limits), page())


def test_what_8_bits_hold_stays_what_it_is(limits: Limits) -> None:
    """As in Pillow, and so in the published processors."""
    values = np.random.default_rng(0).uniform(0, 255, (20, 30)).astype(np.float32)
    data = encode(Image.fromarray(values), "TIFF")

    np.testing.assert_array_equal(decoded(data, limits), np.asarray(reopen(data).convert("RGB")))


@pytest.mark.parametrize(
    "values",
    [
        page().astype(np.int32) * 1000,
        page().astype(np.int32) * 8 - 1024,
        page().astype(np.float32) * 3 - 17.5,
        page().astype(np.float32) * 1e30,
    ],
    ids=["above 16 bits", "below zero", "floating point", "huge"],
)
def test_everything_else_goes_from_its_lowest_to_its_highest(limits: Limits, values: Values) -> None:
    np.testing.assert_array_equal(greys(values, limits), page())


@pytest.mark.parametrize("value", [-5.0, 300.0, 1e9])
def test_a_page_of_one_value_is_blank(limits: Limits, value: float) -> None:
    assert greys(np.full((4, 4), value, np.float32), limits).min() == 255


def test_what_is_no_number_is_black_and_infinity_an_end(limits: Limits) -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 100, 355, 610]], np.float32)

    assert greys(values, limits).tolist() == [[0, 255, 0, 0, 128, 255]]


def test_nothing_but_missing_values_is_refused(limits: Limits) -> None:
    error = refused(decode_image, encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), limits)

    assert error.problem == "cannot be decoded (no pixel has a value that is a number)"


def test_a_transparent_value_is_white(limits: Limits) -> None:
    values = page().astype(np.uint16) * 257
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", transparency=7 * 257)

    expected = page().copy()
    expected[page() == 7] = 255
    np.testing.assert_array_equal(decoded(file.getvalue(), limits)[..., 0], expected)


def test_rows_that_fill_no_whole_block() -> None:
    values = np.arange(100 * 7, dtype=np.uint16).reshape(100, 7) * 90

    np.testing.assert_array_equal(np.asarray(to_eight_bits(Image.fromarray(values))), np.rint(values / 257))
