"""Scans and documents as people have them, through the real server: their vectors are those of the plain page."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from e2e.exported import Exported
from periscope_client import ContentWarning, Retriever, tiff_pages


def plain() -> Image.Image:
    """A page in 8 bits of grey."""
    random = np.random.default_rng(5)
    return Image.fromarray(random.integers(0, 256, (20, 24), dtype=np.uint8)).resize(
        (168, 140), Image.Resampling.BICUBIC
    )


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def test_a_page_in_any_depth_and_wrapping_has_one_vector(retriever: Retriever) -> None:
    grey = np.asarray(plain())
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    fractions = Image.fromarray((grey / 255).astype(np.float32))
    numbers = Image.fromarray(grey.astype(np.int32) * 257)
    swapped = Image.frombytes("I;16B", plain().size, (grey.astype(">u2") * 257).tobytes())
    pages = encoded(plain(), "TIFF", save_all=True, append_images=[deep, fractions])
    with pytest.warns(ContentWarning, match="grey values of more than 8 bits"):
        embeddings = retriever.embed_image(
            [
                plain(),
                *(deep, fractions, numbers, swapped),
                *(encoded(deep, "PNG"), encoded(deep, "TIFF"), encoded(fractions, "TIFF"), encoded(numbers, "TIFF")),
                *(encoded(plain(), "BMP"), encoded(plain().convert("RGB"), "BMP")),
                *tiff_pages(pages),
            ]
        )
    first, *others = embeddings.late_vectors()
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)


def test_a_tiff_of_several_pages_from_another_client(triton: InferenceServerClient, first: Exported) -> None:
    image = InferInput("IMAGE", [1, 1], "BYTES")
    image.set_data_from_numpy(
        np.array([[encoded(plain(), "TIFF", save_all=True, append_images=[plain()])]], np.object_)
    )
    with pytest.raises(InferenceServerException, match=r"preprocess: image 0: is a TIFF of several pages\. Send each"):
        triton.infer(f"{first.name}_embed_image", [image])
