"""A file cut short is refused; what is missing never passes for white or black."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from periscope_runtime.errors import PreparationError
from periscope_runtime.image import decode_image
from periscope_runtime.prepare import Preparer
from periscope_runtime.recipe import Limits
from runtime.pictures import decoded, encode, noise
from runtime.refusals import assert_readable, refused

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "gif": ("GIF", {}),
    "tiff": ("TIFF", {}),
    "lzw tiff": ("TIFF", {"compression": "tiff_lzw"}),
}
FILES = {kind: encode(noise(40, 30), name, **options) for kind, (name, options) in KINDS.items()}


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
def test_a_file_without_its_end_is_refused(preparer: Preparer, kind: str, share: float) -> None:
    data = FILES[kind]

    error = refused(preparer.image, data[: max(1, int(share * len(data)))])

    assert error.problem.startswith(("cannot be decoded", "is not an image that can be read"))


@given(st.sampled_from(sorted(KINDS)), st.floats(0, 1, exclude_max=True))
@settings(deadline=None, max_examples=300)
def test_cut_anywhere_a_file_is_refused_or_gives_all_its_pixels(limits: Limits, kind: str, share: float) -> None:
    data = FILES[kind]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = decode_image(data[: int(share * len(data))], limits)
    except PreparationError as error:
        assert_readable(error)
    else:
        np.testing.assert_array_equal(np.asarray(image), decoded(data, limits))


def test_the_message_says_how_the_file_fails_and_what_to_send(preparer: Preparer) -> None:
    data = FILES["jpeg"]

    error = refused(preparer.image, data[: len(data) // 2])

    assert error.at("preprocess", "image 3").startswith(
        "preprocess: image 3: cannot be decoded (image file is truncated"
    )
    assert str(error).endswith("Send a PNG, JPEG, WebP, GIF or TIFF file.")
