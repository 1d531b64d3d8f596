"""Qwen3-VL at the cuts of the running chain: pixels, tokens and positions are the published processor's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported
from e2e.pages import column, draw_page, encode, infer
from periscope_testing.qwen3_vl.reference import EmbeddingReference, RerankerReference
from systems.test_qwen3_vl_embedding import NAME, SIZES, VIDEOS, video


@pytest.fixture(scope="module")
def reference(systems: dict[str, Exported]) -> EmbeddingReference:
    return EmbeddingReference(systems[NAME].checkpoint)


def assert_tokens(
    outputs: dict[str, NDArray[Any]], reference: EmbeddingReference | RerankerReference, inputs: dict[str, torch.Tensor]
) -> None:
    """Ids, with the image token in the place of the video token, and M-RoPE positions of the first row."""
    model = getattr(reference.model, "model", reference.model)
    ids_BT = inputs["input_ids"]
    positions, _ = model.get_rope_index(
        ids_BT, inputs["mm_token_type_ids"], inputs.get("image_grid_thw"), inputs.get("video_grid_thw")
    )
    wanted = torch.where(ids_BT == model.config.video_token_id, model.config.image_token_id, ids_BT)[0].numpy()
    np.testing.assert_array_equal(outputs["input_ids"][0][: len(wanted)], wanted)
    assert not outputs["input_ids"][0][len(wanted) :].any()
    np.testing.assert_array_equal(outputs["position_ids"][0][:, : len(wanted)], positions[:, 0].numpy())
    (last,) = np.flatnonzero(outputs["pool_mask"][0])
    assert last == len(wanted) - 1


def published_bytes(pixels: torch.Tensor) -> NDArray[np.int16]:
    return np.asarray(((pixels + 1) * 127.5).round().to(torch.int16).numpy())


@pytest.mark.parametrize("size", SIZES)
def test_pages(triton: InferenceServerClient, reference: EmbeddingReference, size: tuple[int, int]) -> None:
    page = draw_page(*size)
    outputs = infer(triton, f"{NAME}_preprocess_image", {"IMAGE": column([encode(page)])})
    inputs = reference.prepare(reference.conversation(image=page))
    real = outputs["patch_segments"][0] == 0
    np.testing.assert_array_equal(outputs["patches"][0][real], published_bytes(inputs["pixel_values"]))
    assert set(map(tuple, outputs["patch_grids"][0][real])) == {tuple(inputs["image_grid_thw"][0, 1:].tolist())}
    assert_tokens(outputs, reference, inputs)


@pytest.mark.parametrize(("size", "frames"), [*VIDEOS, ((1280, 720), 2), ((333, 777), 5), ((64, 48), 70)])
def test_videos(
    triton: InferenceServerClient, reference: EmbeddingReference, size: tuple[int, int], frames: int
) -> None:
    """All pixels but those that lie between two bytes, where the order of a sum decides: some in a million. The last of
    these has more frames than are kept.
    """
    shots = video(size, frames)
    files = np.array([[encode(shot) for shot in shots]], dtype=object)
    outputs = infer(triton, f"{NAME}_preprocess_video", {"VIDEO": files})
    inputs = reference.prepare(reference.conversation(video=shots))
    real = outputs["patch_segments"][0] >= 0
    differences = np.abs(outputs["patches"][0][real].astype(np.int16) - published_bytes(inputs["pixel_values_videos"]))
    assert differences.max() <= 1
    assert differences.mean() <= 5e-5
    groups, rows, columns = inputs["video_grid_thw"][0].tolist()
    # Each pair of frames has a row of its own.
    assert real.sum(1).tolist() == [rows * columns] * groups
    assert not outputs["patch_segments"][0][real].any()
    assert_tokens(outputs, reference, inputs)


def test_pairs(triton: InferenceServerClient, systems: dict[str, Exported]) -> None:
    """A page and a question against a video with a text: three images in one row, each in its place."""
    reference = RerankerReference(systems["qwen3_reranker"].checkpoint)
    page, shots = draw_page(130, 220), video((320, 180), 3)
    outputs = infer(
        triton,
        "qwen3_reranker_preprocess_rerank",
        {
            "QUERY_TEXT": np.array([b"Which one?"], dtype=object),
            "QUERY_IMAGE": np.array([encode(page)], dtype=object),
            "TEXT": np.array([b"growth"], dtype=object),
            "VIDEO": np.array([encode(shot) for shot in shots], dtype=object),
            "VIDEO_FRAMES": np.array([3], np.int32),
        },
    )
    conversation = reference.conversation({"text": "Which one?", "image": page}, {"text": "growth", "video": shots})
    inputs = reference.prepare(conversation)
    assert_tokens(outputs, reference, inputs)
    pixels = published_bytes(torch.cat((inputs["pixel_values"], inputs["pixel_values_videos"])))
    real = outputs["patch_segments"][0] >= 0
    assert np.abs(outputs["patches"][0][real].astype(np.int16) - pixels).mean() <= 5e-5
