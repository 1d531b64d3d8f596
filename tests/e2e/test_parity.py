"""The served vectors are the published model's vectors: image bytes in, vectors out of the running server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported
from e2e.pages import QUERIES, SIZES, column, draw_page, encode, infer, rows
from periscope_client import Retriever
from periscope_serve.server import Server
from periscope_testing.colqwen2.reference import ColQwen2Reference

TOLERANCE = 1e-4

Vectors = Sequence[NDArray[np.float32]]


def largest_difference(found: Vectors, wanted: Vectors) -> float:
    assert [vectors.shape for vectors in found] == [vectors.shape for vectors in wanted]
    return max(float(np.abs(one - other).max()) for one, other in zip(found, wanted, strict=True))


@pytest.fixture(params=["first", "second"])
def pair(request: pytest.FixtureRequest) -> tuple[Exported, ColQwen2Reference]:
    return request.getfixturevalue(request.param), request.getfixturevalue(f"{request.param}_reference")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_pages_and_queries_get_the_published_vectors(
    server: Server, pair: tuple[Exported, ColQwen2Reference], protocol: Literal["grpc", "http"]
) -> None:
    exported, reference = pair
    pages = [draw_page(*size, seed) for seed, size in enumerate(SIZES)]
    with Retriever(server.url(protocol), exported.name, protocol=protocol) as retriever:
        found_pages = retriever.embed_image([encode(page) for page in pages])
        found_queries = retriever.embed_text(list(QUERIES), role="query")
        scores = retriever.maxsim(found_queries, found_pages)
    # One by one: the reference pads a batch on the left, and that alone moves its vectors a little.
    wanted_pages = [reference.images([page])[0] for page in pages]
    wanted_queries = [reference.queries([query])[0] for query in QUERIES]
    assert largest_difference(found_pages.late_vectors(), wanted_pages) <= TOLERANCE
    assert largest_difference(found_queries.late_vectors(), wanted_queries) <= TOLERANCE
    np.testing.assert_allclose(scores, reference.maxsim(wanted_queries, wanted_pages), rtol=0, atol=TOLERANCE)


def test_every_vector_has_length_one(retriever: Retriever) -> None:
    late = retriever.embed_image([draw_page(300, 200)]).late_vectors()
    np.testing.assert_allclose(np.linalg.norm(late[0], axis=-1), 1, atol=1e-6)


def test_a_row_of_a_batch_equals_the_single_row(triton: InferenceServerClient, first: Exported) -> None:
    """Different sizes in one request: each row is padded to the largest, and still the same."""
    pages = [encode(draw_page(*size)) for size in ((100, 100), (280, 392), (500, 90))]
    together = rows(infer(triton, f"{first.name}_embed_image", {"IMAGE": column(pages)}))
    alone = [rows(infer(triton, f"{first.name}_embed_image", {"IMAGE": column([page])}))[0] for page in pages]
    assert largest_difference(together, alone) <= 1e-5

    texts = [query.encode() for query in QUERIES]
    together = rows(infer(triton, f"{first.name}_embed_text", {"TEXT": column(texts)}))
    alone = [rows(infer(triton, f"{first.name}_embed_text", {"TEXT": column([text])}))[0] for text in texts]
    assert largest_difference(together, alone) <= 1e-5


def test_padding_rows_are_zero_and_marked(triton: InferenceServerClient, first: Exported) -> None:
    outputs = infer(triton, f"{first.name}_embed_image", {"IMAGE": column([encode(draw_page(100, 100))])})
    padding = outputs["late_mask"][0] == 0
    assert padding.any(), "the page fills its bucket, so this test shows nothing"
    assert not outputs["late"][0][padding].any()


def test_order_and_neighbours_do_not_matter(retriever: Retriever) -> None:
    """Many requests in flight, joined by the server as they come: an item's vectors are its own."""
    pages = [encode(draw_page(100 + 28 * (seed % 3), 100, seed)) for seed in range(12)]
    forward = retriever.embed_image(pages).late_vectors()
    backward = retriever.embed_image(pages[::-1]).late_vectors()
    assert largest_difference(forward, backward[::-1]) <= 1e-5


def test_a_query_is_not_a_page(retriever: Retriever, first_reference: ColQwen2Reference) -> None:
    """The tolerance means something: another word, another pixel row or another prompt is far outside it."""
    found = retriever.embed_text(["revenue by region"]).late_vectors()
    for other in ("revenue by region ", "Revenue by region"):
        wanted = first_reference.queries([other])[0]
        shared = min(len(wanted), len(found[0]))
        assert np.abs(found[0][:shared] - wanted[:shared]).max() > 100 * TOLERANCE
