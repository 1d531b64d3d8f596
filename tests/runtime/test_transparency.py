"""Transparency goes over white, as in the published processor."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from periscope_runtime.recipe import Limits
from runtime.pictures import Pixels, decoded, encode, noise, reopen, with_alpha


def over_white(pixels_HW4: Pixels) -> Pixels:
    """The formula: what the paint covers, and white for the rest."""
    colour, cover = pixels_HW4[..., :3].astype(float), pixels_HW4[..., 3:].astype(float) / 255
    rounded: Pixels = np.round(colour * cover + 255 * (1 - cover)).astype(np.uint8)
    return rounded


def check(data: bytes, limits: Limits, expected_HW4: Pixels) -> None:
    pixels = decoded(data, limits)
    assert abs(pixels.astype(int) - over_white(expected_HW4)).max() <= 1
    np.testing.assert_array_equal(pixels, convert_to_rgb(reopen(data), return_numpy=True))


@pytest.mark.parametrize(("file_format", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})])
def test_every_degree_of_transparency_goes_over_white(
    limits: Limits, file_format: str, options: dict[str, bool]
) -> None:
    image = with_alpha(48, 37)
    data = encode(image, file_format, exact=True, **options)

    check(data, limits, np.asarray(image))


def test_transparent_greys_go_over_white(limits: Limits) -> None:
    image = with_alpha(48, 37).convert("LA")
    grey, cover = np.moveaxis(np.asarray(image), -1, 0)

    check(encode(image, "PNG"), limits, np.stack([grey, grey, grey, cover], axis=-1))


def test_a_palette_with_degrees_of_transparency_goes_over_white(picture: Image.Image, limits: Limits) -> None:
    page = picture.quantize(8)
    covers = bytes([0, 30, 90, 128, 200, 254, 255, 255])
    palette = np.column_stack([np.array(page.getpalette(), np.uint8).reshape(-1, 3)[:8], np.frombuffer(covers, "u1")])

    check(encode(page, "PNG", transparency=covers), limits, palette[np.asarray(page)])


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_white(picture: Image.Image, limits: Limits, file_format: str) -> None:
    page = picture.quantize(8)
    palette = np.array(page.getpalette(), np.uint8).reshape(-1, 3)
    expected = palette[np.asarray(page)]
    expected[np.asarray(page) == 3] = 255

    data = encode(page, file_format, transparency=3)

    np.testing.assert_array_equal(decoded(data, limits), expected)
    np.testing.assert_array_equal(expected, convert_to_rgb(reopen(data), return_numpy=True))


@pytest.mark.parametrize(("mode", "key"), [("RGB", (10, 20, 30)), ("L", 77)])
def test_a_transparent_colour_becomes_white(limits: Limits, mode: str, key: int | tuple[int, int, int]) -> None:
    page = noise(40, 30).convert(mode)
    page.paste(key, (5, 5, 20, 20))
    expected = np.array(page.convert("RGB"))
    expected[(expected == np.array(key)).all(axis=-1)] = 255

    np.testing.assert_array_equal(decoded(encode(page, "PNG", transparency=key), limits), expected)


def test_lossy_webp_goes_over_white_too(limits: Limits) -> None:
    image = Image.new("RGBA", (32, 32), (200, 40, 40, 255))
    image.paste((0, 0, 0, 0), (0, 0, 32, 16))

    pixels = decoded(encode(image, "WEBP", quality=90), limits)

    assert pixels[:12].min() >= 250
    assert abs(pixels[20:].astype(int) - (200, 40, 40)).max() <= 12


def test_fully_transparent_black_is_a_white_page(limits: Limits) -> None:
    data = encode(Image.new("RGBA", (30, 30), (0, 0, 0, 0)), "PNG")

    assert decoded(data, limits).min() == 255
