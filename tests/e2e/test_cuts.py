"""Golden values at three cuts of the running chain: patches, visual tokens, final vectors (test_parity.py).

When the last cut fails, these say which step to look at.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported
from e2e.pages import QUERIES, SIZES, column, draw_page, encode, infer
from periscope_testing.colqwen2.reference import ColQwen2Reference


def published_pixels(reference: ColQwen2Reference, page: Image.Image) -> NDArray[np.uint8]:
    """uint8 patches of the published processor, before it rescales and normalises."""
    processor = reference.processor.image_processor
    values = processor(page, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
    return np.asarray(values).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_patches_are_exactly_the_published_pixels(
    triton: InferenceServerClient, first: Exported, first_reference: ColQwen2Reference, size: tuple[int, int]
) -> None:
    page = draw_page(*size)
    outputs = infer(triton, f"{first.name}_preprocess_image", {"IMAGE": column([encode(page)])})
    wanted = published_pixels(first_reference, page)
    real = outputs["patch_segments"][0] == 0
    np.testing.assert_array_equal(outputs["patches"][0][real], wanted)
    assert not outputs["patches"][0][~real].any()


@pytest.mark.parametrize("size", SIZES)
def test_page_tokens_and_positions_are_the_published_ones(
    triton: InferenceServerClient, first: Exported, first_reference: ColQwen2Reference, size: tuple[int, int]
) -> None:
    page = draw_page(*size)
    outputs = infer(triton, f"{first.name}_preprocess_image", {"IMAGE": column([encode(page)])})
    assert_tokens(outputs, first_reference, first_reference.image_inputs([page]))


@pytest.mark.parametrize("query", QUERIES)
def test_query_tokens_and_positions_are_the_published_ones(
    triton: InferenceServerClient, first: Exported, first_reference: ColQwen2Reference, query: str
) -> None:
    outputs = infer(triton, f"{first.name}_preprocess_text", {"TEXT": column([query.encode()])})
    assert_tokens(outputs, first_reference, first_reference.query_inputs([query]))


def assert_tokens(
    outputs: dict[str, NDArray[Any]], reference: ColQwen2Reference, inputs: dict[str, torch.Tensor]
) -> None:
    real = outputs["late_mask"][0] > 0
    np.testing.assert_array_equal(outputs["input_ids"][0][real], inputs["input_ids"][0].numpy())
    np.testing.assert_array_equal(outputs["position_ids"][0][:, real], reference.position_ids(inputs)[:, 0].numpy())


@pytest.mark.parametrize("size", SIZES)
def test_visual_tokens_are_the_published_ones(
    triton: InferenceServerClient, first: Exported, first_reference: ColQwen2Reference, size: tuple[int, int]
) -> None:
    page = draw_page(*size)
    prepared = infer(triton, f"{first.name}_preprocess_image", {"IMAGE": column([encode(page)])})
    names = ("patches", "patch_positions", "patch_segments", "visual_index")
    found = infer(triton, f"{first.name}_vision_encoder", {name: prepared[name] for name in names})["visual_tokens"][0]
    inputs = first_reference.image_inputs([page])
    with torch.inference_mode():
        output = first_reference.model.get_image_features(inputs["pixel_values"][0], inputs["image_grid_thw"])
    wanted = output.pooler_output[0].numpy()
    np.testing.assert_allclose(found[: len(wanted)], wanted, rtol=0, atol=1e-4)
