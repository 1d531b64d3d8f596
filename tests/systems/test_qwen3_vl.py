"""Qwen3-VL at the cuts of the running chain: positions and pooled tokens, and what videos and pairs are prepared to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contract.items import KINDS, VIDEOS
from contract.served import Served
from contract.servers import Servers
from e2e.pages import draw_page, encode
from periscope_testing.qwen3_vl.reference import EmbeddingReference, RerankerReference
from periscope_testing.reference import Item


@pytest.fixture
def embedding(servers: Servers) -> Served:
    return servers.of("qwen3_embedding")


def assert_tokens(
    outputs: dict[str, NDArray[Any]], reference: EmbeddingReference | RerankerReference, inputs: dict[str, torch.Tensor]
) -> None:
    """M-RoPE positions of the first row, and the last token pooled."""
    model = getattr(reference.model, "model", reference.model)
    ids_BT = inputs["input_ids"]
    positions, _ = model.get_rope_index(
        ids_BT, inputs["mm_token_type_ids"], inputs.get("image_grid_thw"), inputs.get("video_grid_thw")
    )
    np.testing.assert_array_equal(outputs["input_ids"][0][: ids_BT.shape[1]], reference.as_images(ids_BT[0]))
    np.testing.assert_array_equal(outputs["position_ids"][0][:, : ids_BT.shape[1]], positions[:, 0].numpy())
    (last,) = np.flatnonzero(outputs["pool_mask"][0])
    assert last == ids_BT.shape[1] - 1


def published_bytes(pixels: torch.Tensor) -> NDArray[np.int16]:
    return np.asarray(((pixels + 1) * 127.5).round().to(torch.int16).numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_positions(embedding: Served, kind: str) -> None:
    reference = embedding.reference
    assert isinstance(reference, EmbeddingReference)
    for item in KINDS[kind]:
        inputs = reference.prepare(reference.conversation(**item.contents()))
        assert_tokens(embedding.prepared(item), reference, inputs)


@pytest.mark.parametrize(
    "frames",
    [
        *VIDEOS,
        *(
            tuple(draw_page(*size, seed) for seed in range(count))
            for size, count in (((1280, 720), 2), ((333, 777), 5), ((64, 48), 70))
        ),
    ],
    ids=len,
)
def test_videos(embedding: Served, frames: tuple[Any, ...]) -> None:
    """All pixels but those that lie between two bytes, where the order of a sum decides: some in a million. The last of
    these has more frames than are kept.
    """
    reference = embedding.reference
    assert isinstance(reference, EmbeddingReference)
    outputs = embedding.prepared(Item(video=frames))
    inputs = reference.prepare(reference.conversation(video=frames))
    real = outputs["patch_segments"][0] >= 0
    differences = np.abs(outputs["patches"][0][real].astype(np.int16) - published_bytes(inputs["pixel_values_videos"]))
    assert differences.max() <= 1
    assert differences.mean() <= 5e-5
    groups, rows, columns = inputs["video_grid_thw"][0].tolist()
    # Each pair of frames has a row of its own.
    assert real.sum(1).tolist() == [rows * columns] * groups
    assert not outputs["patch_segments"][0][real].any()
    assert_tokens(outputs, reference, inputs)


def test_pairs(servers: Servers) -> None:
    """A page and a question against a video with a text: three images in one row, each in its place."""
    reranker = servers.of("qwen3_reranker")
    reference = reranker.reference
    assert isinstance(reference, RerankerReference)
    page, shots = draw_page(130, 220), VIDEOS[1]
    outputs = reranker.step(
        "preprocess_rerank",
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
