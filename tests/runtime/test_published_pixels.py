"""The first cut of the golden tests: patches are the published processor's, byte for byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from periscope_runtime.image import decode_image
from periscope_runtime.patches import patchify
from periscope_runtime.prepare import Preparer
from periscope_runtime.recipe import ImagePolicy, Limits
from periscope_runtime.resize import resize
from runtime.pictures import Pixels, encode, noise, reopen, with_alpha


@pytest.fixture(scope="session")
def processor(checkpoint: Path) -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil.from_pretrained(checkpoint)


def published(processor: Qwen2VLImageProcessorPil, image: Image.Image) -> tuple[Pixels, tuple[int, int]]:
    """Patches before rescaling and normalising, and the grid of visual tokens."""
    result = processor.preprocess(image, do_rescale=False, do_normalize=False, return_tensors="np")
    _frames, rows, columns = result["image_grid_thw"][0].tolist()
    return result["pixel_values"], (rows // 2, columns // 2)


def check(preparer: Preparer, processor: Qwen2VLImageProcessorPil, data: bytes) -> None:
    expected, grid = published(processor, reopen(data))

    row = preparer.image(data)

    assert row.patches is not None
    assert row.patches.grids == (grid,)
    np.testing.assert_array_equal(row.patches.patches_PC, expected)


@pytest.mark.parametrize(
    "size",
    [
        *[(1, 1), (1, 2), (3, 2), (13, 15), (27, 29)],  # below one visual token: enlarged
        *[(56, 56), (84, 140), (280, 392)],  # multiples: no resampling at all
        *[(199, 301), (640, 480), (595, 842), (333, 77)],  # odd, inside the limits
        *[(1200, 1700), (1654, 2339), (3000, 501)],  # above the limit: shrunk
        *[(1, 200), (200, 1), (4000, 25), (25, 4000)],  # wide and tall up to the limit
    ],
)
def test_patches_of_every_size_are_the_published_ones(
    preparer: Preparer, processor: Qwen2VLImageProcessorPil, size: tuple[int, int]
) -> None:
    check(preparer, processor, encode(noise(*size), "PNG", compress_level=0))


@given(st.tuples(st.integers(1, 420), st.integers(1, 420)).filter(lambda size: max(size) <= 200 * min(size)))
@settings(deadline=None, max_examples=30)
def test_patches_of_any_size_are_the_published_ones(
    preparer: Preparer, processor: Qwen2VLImageProcessorPil, size: tuple[int, int]
) -> None:
    check(preparer, processor, encode(noise(*size), "PNG", compress_level=0))


# The modes that each encoder writes.
MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "JPEG": ["L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["1", "L", "P", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "LAB"],
}


@pytest.mark.parametrize(("file_format", "mode"), [(name, mode) for name, modes in MODES.items() for mode in modes])
def test_patches_of_every_mode_and_format_are_the_published_ones(
    preparer: Preparer, processor: Qwen2VLImageProcessorPil, file_format: str, mode: str
) -> None:
    image = with_alpha(131, 77)
    if mode != "RGBA":
        image = image.convert("RGB").convert(mode)

    check(preparer, processor, encode(image, file_format))


@given(
    st.tuples(st.integers(20, 300), st.integers(20, 300)),
    st.sampled_from([(3136, 50176), (50176, 200704), (3136, 3136)]),
)
@settings(deadline=None, max_examples=20)
def test_the_limits_of_a_checkpoint_give_the_published_patches(
    processor: Qwen2VLImageProcessorPil,
    policy: ImagePolicy,
    limits: Limits,
    size: tuple[int, int],
    bounds: tuple[int, int],
) -> None:
    own = replace(policy, min_pixels=bounds[0], max_pixels=bounds[1])
    theirs = Qwen2VLImageProcessorPil(min_pixels=bounds[0], max_pixels=bounds[1])
    image = noise(*size)

    patches = patchify([resize(decode_image(encode(image, "PNG"), limits), own)], own)

    expected, grid = published(theirs, image)
    assert patches.grids == (grid,)
    np.testing.assert_array_equal(patches.patches_PC, expected)
