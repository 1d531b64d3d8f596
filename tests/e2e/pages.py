"""Pages of many shapes, drawn from a seed: gradients, letters and noise, so that no two patches are alike."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput

# Width, height: square, wide, tall, smaller than a visual token, above the pixel limit, already a multiple of 28.
SIZES = ((100, 100), (500, 90), (70, 620), (20, 17), (1100, 900), (280, 392))

QUERIES = (
    "revenue by region",
    "Welche Seite zeigt den Energieverbrauch?",
    "図表 📈 of 2024, naïve café",
    "a\nb  {text} {augmentation}",
    "x",
    "how many visitors " * 20,
)


def draw_page(width: int, height: int, seed: int = 0) -> Image.Image:
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 / height, columns * 255 / width, (rows + columns) % 256], -1)
    noisy = np.clip(pixels + random.normal(0, 20, pixels.shape), 0, 255).astype(np.uint8)
    page = Image.fromarray(noisy)
    ImageDraw.Draw(page).text((5, 5), f"page {seed}", font=ImageFont.load_default(24), fill=(0, 0, 0))
    return page


def encode(page: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    page.save(file, file_format, **options)
    return file.getvalue()


def infer(
    triton: InferenceServerClient, model: str, inputs: dict[str, NDArray[Any]], outputs: Sequence[str] = ()
) -> dict[str, NDArray[Any]]:
    """Call a model with arrays; objects go as BYTES. Without names of `outputs` all come back."""
    types = {"O": "BYTES", "uint8": "UINT8", "int32": "INT32", "float32": "FP32"}
    tensors = []
    for name, array in inputs.items():
        tensor = InferInput(name, list(array.shape), types["O" if array.dtype == object else array.dtype.name])
        tensor.set_data_from_numpy(array)
        tensors.append(tensor)
    asked = [InferRequestedOutput(name) for name in outputs]
    response = triton.infer(model, tensors, outputs=asked or None)
    return {output.name: response.as_numpy(output.name) for output in response.get_response().outputs}


def column(items: list[bytes]) -> NDArray[Any]:
    """Items as rows of one request, [B, 1]."""
    return np.array([[item] for item in items], dtype=object)


def rows(outputs: dict[str, NDArray[Any]]) -> list[NDArray[np.float32]]:
    """Late vectors of each row without padding."""
    return [late[mask > 0] for late, mask in zip(outputs["late"], outputs["late_mask"], strict=True)]
