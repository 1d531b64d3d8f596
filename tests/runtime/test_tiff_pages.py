"""A TIFF is an image where it has one page; several are refused, and previews are none."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from periscope_runtime import tiff
from periscope_runtime.image import decode_image
from periscope_runtime.recipe import Limits
from runtime.pictures import decoded, encode, noise
from runtime.refusals import refused

PAGE, PREVIEW, PAGE_OF_SEVERAL, MASK = 0, 1, 2, 4


def tiff_file(images: Sequence[tuple[Image.Image, int]], tag: int = 254) -> bytes:
    """A file of images, each of the type that its tag says."""
    file = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(file, new=True) as writer:
        for image, kind in images:
            image.save(writer, "TIFF", tiffinfo={tag: kind})
            writer.newFrame()
    return file.getvalue()


def test_several_pages_are_refused(limits: Limits) -> None:
    data = tiff_file([(noise(9, 9), PAGE_OF_SEVERAL), (noise(9, 9, 1), PAGE_OF_SEVERAL)])

    error = refused(decode_image, data, limits)

    assert str(error) == "is a TIFF of several pages. Send each page as an image of its own."


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(("tag", "kind"), [(254, PREVIEW), (254, MASK), (254, PREVIEW | MASK), (255, 2)])
def test_previews_and_masks_are_no_pages(limits: Limits, before: bool, tag: int, kind: int) -> None:
    page, preview = (noise(40, 30), 0 if tag == 254 else 1), (noise(8, 6), kind)
    data = tiff_file([preview, page, preview] if before else [page, preview, preview], tag)

    np.testing.assert_array_equal(decoded(data, limits), np.asarray(page[0]))


def test_a_preview_alone_is_what_there_is(limits: Limits) -> None:
    np.testing.assert_array_equal(
        decoded(tiff_file([(noise(8, 6), PREVIEW), (noise(4, 3), PREVIEW)]), limits), np.asarray(noise(8, 6))
    )


def test_a_preview_that_cannot_be_decoded_is_no_obstacle(limits: Limits) -> None:
    data = tiff_file([(noise(40, 30), PAGE), (noise(8, 6), PREVIEW)])
    second = struct.pack("<HHII", 262, 3, 1, 2)  # how its colours are to be read
    place = data.rindex(second)

    damaged = data[:place] + struct.pack("<HHII", 262, 3, 1, 77) + data[place + len(second) :]

    np.testing.assert_array_equal(decoded(damaged, limits), np.asarray(noise(40, 30)))


def test_a_page_that_cannot_be_decoded_is_not_its_preview(limits: Limits) -> None:
    data = tiff_file([(noise(8, 6), PREVIEW), (noise(40, 30), PAGE)])
    place = data.rindex(struct.pack("<HHII", 259, 3, 1, 1))  # its compression

    error = refused(decode_image, data[: place + 8] + struct.pack("<I", 0xBAD) + data[place + 12 :], limits)

    assert error.problem.startswith("cannot be decoded (")


def test_looking_for_pages_ends(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "MOST_IMAGES", 3)
    previews = [(noise(8, 6), PREVIEW)] * 3

    decoded(tiff_file([(noise(9, 9), PAGE), *previews[:1]]), limits)
    assert (
        refused(decode_image, tiff_file([(noise(9, 9), PAGE), *previews]), limits).problem
        == "is a TIFF of several pages"
    )


def test_a_file_that_breaks_off_after_its_first_page(limits: Limits) -> None:
    data = tiff_file([(noise(9, 9), PAGE)])
    (place,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, place)
    following = place + 2 + 12 * entries
    assert data[following : following + 4] == bytes(4)

    error = refused(decode_image, data[:following] + struct.pack("<I", len(data) - 1) + data[following + 4 :], limits)

    assert error.problem.startswith("cannot be decoded (")


def test_a_single_page_is_not_looked_through(limits: Limits) -> None:
    np.testing.assert_array_equal(decoded(encode(noise(9, 9), "TIFF"), limits), np.asarray(noise(9, 9)))
