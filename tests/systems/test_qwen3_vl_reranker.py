"""Qwen3-VL-Reranker through the running server: every kind of pair gets the released code's score."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from e2e.exported import Exported
from e2e.pages import draw_page, encode, infer
from periscope_client import Retriever
from periscope_serve.server import Server
from periscope_testing.qwen3_vl.reference import RerankerReference
from periscope_testing.reference import Item

NAME = "qwen3_reranker"
TOLERANCE = 1e-4

PAGE = draw_page(200, 150, 1)
SHOTS = [draw_page(320, 180, seed) for seed in range(3)]
Side = dict[str, Any]

QUERIES: dict[str, Side] = {
    "text": {"text": "revenue by region"},
    "page": {"image": draw_page(130, 100, 7)},
    "page and text": {"image": draw_page(130, 100, 7), "text": "Whose is it?"},
    "video": {"video": SHOTS[:2]},
    "video and text": {"video": SHOTS[:2], "text": "What happens?"},
}
DOCUMENTS: list[Side] = [
    {"text": "The revenue grew by a fifth in 2024."},
    {"image": PAGE},
    {"image": PAGE, "text": "Annual report"},
    {"video": SHOTS},
    {"video": SHOTS, "text": "growth"},
    {"text": "図表 📈 of 2024, naïve café {query}"},
]


def files(side: Side) -> Side:
    """The same with pictures as files."""

    def file(value: Any) -> Any:
        if isinstance(value, Image.Image):
            return encode(value)
        return [encode(one) for one in value] if isinstance(value, list) else value

    return {name: file(value) for name, value in side.items()}


def item(side: Side, instruction: str | None = None) -> Item:
    return Item(**side, instruction=instruction)


@pytest.fixture(scope="module")
def reference(systems: dict[str, Exported]) -> RerankerReference:
    return RerankerReference(systems[NAME].checkpoint)


@pytest.fixture(scope="module")
def reranker(server: Server) -> Iterator[Retriever]:
    with Retriever(server.grpc_url, NAME) as connected:
        yield connected


@pytest.mark.parametrize("query", QUERIES)
def test_every_kind_of_pair(reranker: Retriever, reference: RerankerReference, query: str) -> None:
    found = reranker.rerank(files(QUERIES[query]), [files(document) for document in DOCUMENTS])
    assert not found.errors
    wanted = reference.scores(item(QUERIES[query]), [*map(item, DOCUMENTS)])
    np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=TOLERANCE)
    assert found.order == np.argsort(-wanted).tolist()
    # With the rows of "yes" and "no" exchanged, scores would be these.
    assert np.abs(found.scores - (1 - wanted)).min() > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("asked", "instruction"),
    [
        ({"instruction": "Find the number"}, "Find the number"),
        # Unlike the embedder's, taken as it is.
        ({"instruction": " Find the number "}, " Find the number "),
        ({"task": "retrieval"}, "Retrieve images or text relevant to the user's query."),
    ],
)
def test_instructions(
    reranker: Retriever, reference: RerankerReference, asked: dict[str, Any], instruction: str
) -> None:
    query = QUERIES["text"]
    found = reranker.rerank(query["text"], [files(document) for document in DOCUMENTS[:3]], **asked)
    wanted = reference.scores(item(query, instruction), [*map(item, DOCUMENTS[:3])])
    np.testing.assert_allclose(found.scores, wanted, rtol=0, atol=TOLERANCE)
    assert np.abs(wanted - reference.scores(item(query), [*map(item, DOCUMENTS[:3])])).max() > 10 * TOLERANCE


def test_more_candidates_than_a_request_holds(reranker: Retriever) -> None:
    """In several requests; a candidate's score is its own, whoever is beside it."""
    documents = [f"document {number}, " * (1 + number % 4) for number in range(19)]
    found = reranker.rerank("energy", documents)
    alone = [reranker.rerank("energy", [document]).scores[0] for document in documents[:5]]
    np.testing.assert_allclose(found.scores[:5], alone, rtol=0, atol=1e-6)
    backward = reranker.rerank("energy", documents[::-1])
    np.testing.assert_allclose(backward.scores[::-1], found.scores, rtol=0, atol=1e-6)


def strings(*values: bytes) -> NDArray[Any]:
    return np.array(values, dtype=object)


def test_a_broken_candidate_keeps_to_itself(triton: InferenceServerClient) -> None:
    page = encode(PAGE)
    inputs = {
        "QUERY_TEXT": strings(b"energy"),
        "TEXT": strings(b"", b"\xff", b"", b"cost"),
        "IMAGE": strings(page, b"", b"no image", page),
    }
    outputs = infer(triton, f"{NAME}_rerank", inputs)
    statuses = [status.decode() for status in outputs["status"]]
    assert [bool(status) for status in statuses] == [False, True, True, False]
    assert statuses[2].startswith("preprocess: candidate 2: is not an image that can be read. Send")
    assert statuses[1].startswith("preprocess: candidate 1: is not valid UTF-8")
    assert outputs["score"].shape == (4, 1)
    np.testing.assert_array_equal(np.isnan(outputs["score"][:, 0]), [bool(status) for status in statuses])
    fine = [0, 3]
    alone = infer(
        triton,
        f"{NAME}_rerank",
        {"QUERY_TEXT": strings(b"energy"), "TEXT": inputs["TEXT"][fine], "IMAGE": inputs["IMAGE"][fine]},
    )
    np.testing.assert_allclose(outputs["score"][fine], alone["score"], rtol=0, atol=1e-6)


def test_an_empty_candidate_is_broken(triton: InferenceServerClient) -> None:
    outputs = infer(triton, f"{NAME}_rerank", {"QUERY_TEXT": strings(b"energy"), "TEXT": strings(b"", b"cost")})
    assert [bool(status) for status in outputs["status"]] == [True, False]


def test_a_broken_query_fails_the_request(triton: InferenceServerClient) -> None:
    inputs = {"QUERY_IMAGE": strings(b"no image"), "TEXT": strings(b"cost", b"energy")}
    with pytest.raises(InferenceServerException, match="preprocess: query: is not an image that can be read"):
        infer(triton, f"{NAME}_rerank", inputs)


def test_too_many_candidates_are_refused(triton: InferenceServerClient) -> None:
    inputs = {"QUERY_TEXT": strings(b"energy"), "TEXT": strings(*[b"cost"] * 5)}
    with pytest.raises(InferenceServerException, match="has 5 candidates, above the limit of 4"):
        infer(triton, f"{NAME}_rerank", inputs)
