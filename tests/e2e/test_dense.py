"""The served dense vector is the mean of the published model's last states: its code, its states, one line of ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported
from e2e.pages import QUERIES, SIZES, column, draw_page, encode, infer
from periscope_client import Retriever
from periscope_demo.reference import Reference
from periscope_serve.server import Server

TOLERANCE = 1e-4


def test_pages_and_queries_get_the_published_states_mean(
    server: Server, second: Exported, second_reference: Reference
) -> None:
    pages = [draw_page(*size, seed) for seed, size in enumerate(SIZES)]
    with Retriever(server.grpc_url, second.name) as retriever:
        assert retriever.info().dense_width == 512
        found_pages = retriever.embed_image([encode(page) for page in pages]).dense
        found_queries = retriever.embed_text(list(QUERIES)).dense
    assert found_pages is not None
    assert found_queries is not None
    reference = second_reference
    wanted_pages = [reference.late_and_dense(reference.image_inputs([page]))[0][1] for page in pages]
    wanted_queries = [reference.late_and_dense(reference.query_inputs([query]))[0][1] for query in QUERIES]
    np.testing.assert_allclose(found_pages, wanted_pages, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found_queries, wanted_queries, rtol=0, atol=TOLERANCE)


def test_a_row_of_a_batch_equals_the_single_row(triton: InferenceServerClient, second: Exported) -> None:
    """Different sizes in one request, so that the smaller ones are padded."""
    texts = [query.encode() for query in QUERIES]
    pages = [encode(draw_page(*size)) for size in ((100, 100), (280, 392), (500, 90))]
    for model, name, items in (("embed_text", "TEXT", texts), ("embed_image", "IMAGE", pages)):
        together = infer(triton, f"{second.name}_{model}", {name: column(items)})["dense"]
        alone = [infer(triton, f"{second.name}_{model}", {name: column([item])})["dense"][0] for item in items]
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(together, axis=-1), 1, atol=1e-5)


def test_a_retriever_without_one_has_none(retriever: Retriever) -> None:
    assert retriever.info().dense_width is None
    assert retriever.embed_text(["revenue"]).dense is None


@pytest.mark.parametrize("kind", ["text", "image"])
def test_the_tolerance_means_something(second_reference: Reference, kind: str) -> None:
    """Padding in the mean, or the late tokens' mean instead of the states', would be far outside it."""
    reference = second_reference
    inputs = reference.query_inputs(["a b"]) if kind == "text" else reference.image_inputs([draw_page(100, 100)])
    late_TK, dense_H = reference.late_and_dense(inputs)[0]
    short_H = reference.late_and_dense({**inputs, "attention_mask": _without_first(inputs["attention_mask"])})[0][1]
    assert np.abs(dense_H - short_H).max() > 10 * TOLERANCE
    assert late_TK.shape[1] != len(dense_H)


def _without_first(mask_BT: torch.Tensor) -> torch.Tensor:
    mask_BT = mask_BT.clone()
    mask_BT[:, 0] = 0
    return mask_BT
