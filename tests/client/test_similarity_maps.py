"""Maps of a query's words over a page, through a real server and from answers made by hand."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from periscope_client import (
    AsyncRetriever,
    InvalidInput,
    MissingVectors,
    Retriever,
    SimilarityMaps,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client._endpoint import Protocol
from periscope_client._similarity_maps import words
from periscope_client._transport import Tensors

from .fake import FakeTransport, Outputs
from .vectors import Floats, expected_late

PAGE = Image.linear_gradient("L").resize((88, 40)).convert("RGB")  # 11 tokens: one, two rows of five


def slow_maps(query_TK: Floats, page_SK: Floats, members: list[list[int]], first: int, shape: tuple[int, int]) -> Any:
    """Cell by cell and token by token: maps as nested lists, and scores."""
    rows, columns = shape
    maps = [
        [
            [
                sum(query_TK[token] @ page_SK[first + row * columns + column] for token in tokens) / len(tokens)
                for column in range(columns)
            ]
            for row in range(rows)
        ]
        for tokens in members
    ]
    scores = [sum(max(query_TK[token] @ vector for vector in page_SK) for token in tokens) for tokens in members]
    return maps, scores


def test_maps_and_scores(retriever: Retriever) -> None:
    query = "Umsätze  nach\u3000地区 🙂"
    maps = retriever.similarity_maps(query, PAGE)

    assert maps.words == ("Umsätze", "nach", "地区", "🙂")
    page_SK = expected_late("document", PAGE.tobytes(), 11)
    query_TK = expected_late("query", query.encode(), 5)
    wanted_maps, wanted_scores = slow_maps(query_TK, page_SK, [[1], [2], [3], [4]], 1, (2, 5))
    np.testing.assert_allclose(maps.maps, wanted_maps, atol=1e-6)
    np.testing.assert_allclose(maps.scores, wanted_scores, atol=1e-6)
    assert maps.maps.shape == (4, 2, 5)
    assert [maps.maps.dtype, maps.scores.dtype] == [np.dtype(np.float32)] * 2


def test_the_scores_are_the_part_of_the_words_in_the_score_of_the_page(retriever: Retriever) -> None:
    query = "revenue by region"
    maps = retriever.similarity_maps(query, PAGE)

    scores = retriever.maxsim(retriever.embed_text([query]), retriever.embed_image([PAGE]))
    prompt_K = expected_late("query", query.encode(), 4)[0]
    rest = max(prompt_K @ vector for vector in expected_late("document", PAGE.tobytes(), 11))
    assert maps.scores.sum() + rest == pytest.approx(scores[0, 0], abs=1e-5)


def test_every_kind_of_page(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "page.png"
    PAGE.save(path)
    wanted = retriever.similarity_maps("revenue", PAGE)
    for page in (path, str(path), path.read_bytes()):
        np.testing.assert_array_equal(retriever.similarity_maps("revenue", page).maps, wanted.maps)
        assert wanted.overlay(page, 0).tobytes() == wanted.overlay(PAGE, 0).tobytes()


def test_async_equals_sync(retriever: Retriever, url: str, protocol: Protocol) -> None:
    async def make() -> SimilarityMaps:
        async with AsyncRetriever(url, "toy", protocol=protocol) as other:
            return await other.similarity_maps("a b", PAGE)

    one, other = asyncio.run(make()), retriever.similarity_maps("a b", PAGE)
    assert one.words == other.words
    np.testing.assert_array_equal(one.maps, other.maps)
    np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("flat", MissingVectors, "no late vectors, only dense ones. Ask for those, or serve"),
        ("slim", UnknownModel, "does not embed images, only texts"),
        ("unmapped", UnexpectedAnswer, "'token_spans'.* Export the checkpoint again"),
    ],
)
def test_retrievers_without_maps(url: str, protocol: Protocol, name: str, error: type[Exception], message: str) -> None:
    with Retriever(url, name, protocol=protocol) as retriever, pytest.raises(error, match=message):
        retriever.similarity_maps("a", PAGE)


def test_a_query_or_a_page_that_is_refused(retriever: Retriever, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be decoded"):
        retriever.similarity_maps("a", b"?")
    with pytest.raises(InvalidInput, match="preprocess: too long"):
        retriever.similarity_maps("refuse: too long", PAGE)
    with pytest.raises(InvalidInput, match="a text is a str, not list"):
        retriever.similarity_maps(["a"], PAGE)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="the file cannot be read"):
        retriever.similarity_maps("a", tmp_path / "missing.png")


def answers() -> tuple[Outputs, Outputs]:
    """Two words, the second of two tokens; padding last. A page of a prompt, a grid of 1 x 2, padding."""
    half = np.sqrt(0.5)
    query = {
        "late": np.array([[[1, 0], [0, 1], [1, 0], [half, half], [0, 0]]], np.float32),
        "late_mask": np.array([[1, 1, 1, 1, 0]], np.int32),
        "token_spans": np.array([[[0, 0], [0, 3], [3, 6], [6, 7], [0, 0]]], np.int32),
    }
    page = {
        "late": np.array([[[half, half], [1, 0], [0, 1], [0, 0]]], np.float32),
        "late_mask": np.array([[1, 1, 1, 0]], np.int32),
        "visual_grid": np.array([[1, 1, 2]], np.int32),
    }
    return query, page


def asked(transport: FakeTransport, query: Outputs, page: Outputs) -> SimilarityMaps:
    def reply(model: str, inputs: Tensors) -> Outputs:
        return query if model == "toy_embed_text" else page

    transport.reply = reply
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        return retriever.similarity_maps("net sales", PAGE)


def test_a_word_of_several_tokens(transport: FakeTransport) -> None:
    maps = asked(transport, *answers())
    half = np.sqrt(0.5)
    # Its map is the mean of theirs; its score their sum, the prompt's token of the page included.
    np.testing.assert_allclose(maps.maps, [[[0, 1]], [[(1 + half) / 2, half / 2]]], atol=1e-6)
    np.testing.assert_allclose(maps.scores, [1, 1 + 1], atol=1e-6)


@pytest.mark.parametrize(
    ("whose", "name", "tensor"),
    [
        (0, "token_spans", np.zeros((1, 5, 2), np.int32)),
        (0, "token_spans", np.tile(np.array([3, 4], np.int32), (1, 5, 1))),  # the blank
        (0, "token_spans", np.ones((1, 4, 2), np.int32)),
        (0, "token_spans", np.ones((1, 5), np.int32)),
        (1, "visual_grid", np.array([[1, 2, 2]], np.int32)),
        (1, "visual_grid", np.array([[2, 1, 2]], np.int32)),
        (1, "visual_grid", np.array([[-1, 1, 2]], np.int32)),
        (1, "visual_grid", np.array([[1, 0, 0]], np.int32)),
        (1, "visual_grid", np.array([[1, 2]], np.int32)),
    ],
)
def test_answers_that_break_the_contract(transport: FakeTransport, whose: int, name: str, tensor: Any) -> None:
    broken = answers()
    broken[whose][name] = tensor
    with pytest.raises(UnexpectedAnswer, match=r"spans|grid|shape"):
        asked(transport, *broken)
    del broken[whose][name]
    with pytest.raises(UnexpectedAnswer, match=f"'{name}' is missing"):
        asked(transport, *broken)


def test_only_what_is_needed_is_asked_for(transport: FakeTransport) -> None:
    asked(transport, *answers())
    late = ("late", "late_mask")
    assert transport.asked == [(*late, "token_spans"), (*late, "visual_grid")]
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        retriever.embed_text(["a"])
        retriever.embed_image([PAGE])
    assert transport.asked[2:] == [late, late]


@pytest.mark.parametrize(
    ("query", "spans", "expected"),
    [
        ("a b", [(0, 1), (1, 3)], [("a", [0]), ("b", [1])]),
        ("a b", [(0, 1), (1, 2), (2, 3)], [("a", [0]), ("b", [2])]),  # a token of blank belongs to no word
        (" a\tb\n", [(0, 2), (2, 4), (4, 5)], [("a", [0]), ("b", [1])]),
        ("a b", [(0, 3)], [("a", [0]), ("b", [0])]),  # one token for two words is both's
        ("a b", [(0, 0), (2, 3)], [("b", [1])]),  # a word that the tokenizer dropped
        ("地区 🙂", [(0, 1), (0, 1), (1, 2), (3, 4), (3, 4)], [("地区", [0, 1, 2]), ("🙂", [3, 4])]),
    ],
)
def test_words(query: str, spans: list[tuple[int, int]], expected: list[tuple[str, list[int]]]) -> None:
    assert [(word, tokens.tolist()) for word, tokens in words(query, np.array(spans, np.int32))] == expected


def test_the_page_is_drawn_upright_and_over_white(tmp_path: Path) -> None:
    maps = SimilarityMaps(("a",), np.array([[[0, 0], [0, 1]]], np.float32), np.ones(1, np.float32))
    image = Image.new("RGBA", (30, 10), (0, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    drawn = maps.overlay(file.getvalue(), 0)
    assert (drawn.size, drawn.mode) == ((10, 30), "RGB")
    assert drawn.getpixel((0, 0)) == (255, 255, 255), "clear where it is coldest, and the page was transparent"
    with pytest.raises(InvalidInput, match="cannot be drawn upon"):
        maps.overlay(b"?", 0)
