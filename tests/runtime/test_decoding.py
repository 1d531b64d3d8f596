"""Files of every kind to RGB: against what was drawn, and against the published conversion."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from transformers.image_transforms import convert_to_rgb

from periscope_runtime.recipe import Limits
from runtime.pictures import Pixels, decoded, encode, noise, reopen


def check(data: bytes, limits: Limits, expected: Pixels) -> None:
    """The pixels are those expected, and those of the published processor."""
    pixels = decoded(data, limits)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(pixels, convert_to_rgb(reopen(data), return_numpy=True))


def grey(image: Image.Image) -> Pixels:
    """One channel as three."""
    return np.repeat(np.asarray(image.convert("L"))[:, :, None], 3, axis=2)


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"compression": "packbits"}),
    ],
)
def test_lossless_files_give_back_every_pixel(
    picture: Image.Image, limits: Limits, file_format: str, options: dict[str, str]
) -> None:
    check(encode(picture, file_format, **options), limits, np.asarray(picture))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "GIF"])
def test_greys_become_three_equal_channels(picture: Image.Image, limits: Limits, file_format: str) -> None:
    check(encode(picture.convert("L"), file_format), limits, grey(picture))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "GIF"])
def test_one_bit_pages_become_black_and_white(picture: Image.Image, limits: Limits, file_format: str) -> None:
    page = picture.convert("1", dither=Image.Dither.NONE)

    ink = np.where(np.asarray(page), 255, 0).astype(np.uint8)
    check(encode(page, file_format), limits, ink[:, :, None].repeat(3, axis=2))


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "GIF"])
def test_palette_entries_become_their_colours(picture: Image.Image, limits: Limits, file_format: str) -> None:
    page = picture.quantize(16)
    palette = np.array(page.getpalette(), np.uint8).reshape(-1, 3)

    check(encode(page, file_format), limits, palette[np.asarray(page)])


@pytest.mark.parametrize(("file_format", "mode"), [("JPEG", "L"), ("JPEG", "RGB"), ("WEBP", "RGB")])
def test_lossy_files_come_close_to_what_was_drawn(limits: Limits, file_format: str, mode: str) -> None:
    smooth = noise(4, 4).resize((64, 48), Image.Resampling.BICUBIC).convert(mode)
    data = encode(smooth, file_format, quality=95)

    difference = decoded(data, limits).astype(int) - np.asarray(smooth.convert("RGB"))
    assert abs(difference).mean() < 3
    np.testing.assert_array_equal(decoded(data, limits), convert_to_rgb(reopen(data), return_numpy=True))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_jpeg_is_decoded_as_pillow_decodes_it(picture: Image.Image, limits: Limits, options: dict[str, bool]) -> None:
    data = encode(picture, "JPEG", **options)

    check(data, limits, np.asarray(reopen(data)))


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_inks_become_the_light_that_they_leave(limits: Limits, file_format: str) -> None:
    smooth = noise(3, 3).resize((48, 48), Image.Resampling.BICUBIC).convert("CMYK")
    data = encode(smooth, file_format)
    cyan, magenta, yellow, black = np.moveaxis(np.asarray(reopen(data)).astype(float), -1, 0)

    light = [(255 - ink) * (255 - black) / 255 for ink in (cyan, magenta, yellow)]
    assert abs(decoded(data, limits) - np.stack(light, axis=-1)).max() <= 1.5
    np.testing.assert_array_equal(decoded(data, limits), convert_to_rgb(reopen(data), return_numpy=True))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_the_first_is_read(limits: Limits, file_format: str) -> None:
    frames = [Image.new("RGB", (40, 24), colour) for colour in ((200, 30, 30), (30, 200, 30), (30, 30, 200))]
    file = io.BytesIO()
    frames[0].save(file, file_format, save_all=True, append_images=frames[1:])
    assert getattr(Image.open(io.BytesIO(file.getvalue())), "n_frames", 1) == 3

    assert abs(decoded(file.getvalue(), limits).astype(int) - (200, 30, 30)).max() <= 10


def test_a_gif_whose_frame_covers_a_part_keeps_its_whole_size(limits: Limits) -> None:
    page = Image.new("P", (20, 10), 1)
    page.putpalette([10, 20, 30, 200, 210, 220])
    data = bytearray(encode(page, "GIF"))
    data[6:10] = (30).to_bytes(2, "little") + (16).to_bytes(2, "little")  # a larger screen

    pixels = decoded(bytes(data), limits)

    assert pixels.shape == (16, 30, 3)
    np.testing.assert_array_equal(pixels[:10, :20], np.full((10, 20, 3), (200, 210, 220)))
