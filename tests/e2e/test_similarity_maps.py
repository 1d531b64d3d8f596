"""The served maps are those of the published vectors: text and image in, maps out, against loops over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported
from e2e.pages import column, draw_page, encode, infer
from periscope_client import Retriever
from periscope_serve.server import Server
from periscope_testing.colqwen2.reference import ColQwen2Reference

TOLERANCE = 1e-4
QUERY = "Umsätze nach 地区 in 2025, 🙂 cafés?"


def published(
    reference: ColQwen2Reference, query: str, page: Image.Image
) -> tuple[list[str], NDArray[Any], NDArray[Any]]:
    """Words, maps and scores from the published vectors, the published grid, and words tokenized one by one."""
    query_TK = reference.queries([query])[0]
    page_SK = reference.images([page])[0]
    inputs = reference.image_inputs([page])
    _, patch_rows, patch_columns = inputs["image_grid_thw"][0].tolist()
    is_visual_S = inputs["input_ids"][0].numpy() == reference.model.config.image_token_id
    visual_HWK = page_SK[is_visual_S].reshape(patch_rows // 2, patch_columns // 2, -1)

    tokenize = reference.processor.tokenizer.tokenize
    words, maps, scores = query.split(" "), [], []
    token = len(tokenize("Query:"))
    for word in words:
        pieces = tokenize(" " + word)
        # A blank that no letter took along is a token of its own, and of no word.
        vectors_TK = [query_TK[token + place] for place, piece in enumerate(pieces) if piece != "Ġ"]
        token += len(pieces)
        maps.append(np.mean([np.einsum("k,rck->rc", vector_K, visual_HWK) for vector_K in vectors_TK], axis=0))
        scores.append(sum(float((page_SK @ vector_K).max()) for vector_K in vectors_TK))
    assert token + 10 == len(query_TK)
    return words, np.array(maps), np.array(scores)


@pytest.mark.parametrize(
    ("name", "size"),
    [("first", (595, 842)), ("first", (500, 90)), ("first", (90, 700)), ("first", (60, 40)), ("trained", (280, 224))],
)
def test_maps_and_scores_are_those_of_the_published_vectors(
    server: Server, request: pytest.FixtureRequest, name: str, size: tuple[int, int]
) -> None:
    exported, reference = request.getfixturevalue(name), request.getfixturevalue(f"{name}_reference")
    page = draw_page(*size)
    words, wanted_maps, wanted_scores = published(reference, QUERY, page)

    with Retriever(server.grpc_url, exported.name) as retriever:
        found = retriever.similarity_maps(QUERY, page)

    assert list(found.words) == words
    assert found.maps.shape == wanted_maps.shape
    np.testing.assert_allclose(found.maps, wanted_maps, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.scores, wanted_scores, rtol=0, atol=TOLERANCE)
    # The tolerance means something: the words' maps, and a map and its reflection, are far from each other.
    assert np.abs(found.maps[0] - found.maps[1]).max() > 100 * TOLERANCE
    assert np.abs(found.maps - found.maps[:, ::-1, ::-1]).max() > 100 * TOLERANCE
    assert found.picture(page).width > size[0]


def test_rows_of_a_batch_have_their_own_places(triton: InferenceServerClient, first: Exported) -> None:
    texts = [text.encode() for text in ("revenue", QUERY, "one two three four")]
    pages = [encode(draw_page(*size)) for size in ((100, 100), (280, 392), (500, 90))]
    for model, name, items, places in (
        ("embed_text", "TEXT", texts, "token_spans"),
        ("embed_image", "IMAGE", pages, "visual_grid"),
    ):
        together = infer(triton, f"{first.name}_{model}", {name: column(items)})[places]
        for row, item in zip(together, items, strict=True):
            alone = infer(triton, f"{first.name}_{model}", {name: column([item])})[places][0]
            np.testing.assert_array_equal(row[: len(alone)], alone)
            assert not row[len(alone) :].any()
