"""Reranking: every document against the query in requests of bounded size, each failing for itself."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from periscope_client import (
    AsyncRetriever,
    InvalidInput,
    Reranking,
    Retriever,
    ServerFault,
    UnexpectedAnswer,
    UnknownModel,
    pdf_pages,
)
from periscope_client._contents import RerankItem
from periscope_client._endpoint import Protocol
from periscope_serve.server import Server

from .vectors import expected_score


def picture(width: int) -> Image.Image:
    return Image.new("RGB", (width, 5), (width % 256, 20, 30))


def content(text: bytes = b"", image: int = 0, frames: tuple[int, ...] = ()) -> bytes:
    """The stand-in's reading of a query or a document."""
    return b"/".join(
        [text, picture(image).tobytes() if image else b"", b"".join(picture(width).tobytes() for width in frames)]
    )


def same(left: Reranking, right: Reranking) -> bool:
    return np.array_equal(left.scores, right.scores, equal_nan=True) and left.order == right.order


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 7, 20])
def test_scores_in_the_order_given(rich: Retriever, count: int) -> None:
    documents = [f"document {number}" for number in range(count)]
    ranking = rich.rerank("the query", documents)
    expected = [expected_score(content(b"the query"), content(document.encode())) for document in documents]
    assert ranking.scores.dtype == np.float32
    np.testing.assert_array_equal(ranking.scores, np.array(expected, np.float32))
    assert ranking.order == sorted(range(count), key=lambda place: -expected[place])
    assert ranking.names == documents
    assert (len(ranking), ranking.errors) == (count, {})
    assert (ranking.fingerprint, ranking.recipe) == ("weights-a", "standin")


def test_every_kind_of_content(rich: Retriever, tmp_path: Path, pdf: Path) -> None:
    path = tmp_path / "page.png"
    picture(16).save(path)
    sent: list[tuple[RerankItem, bytes]] = [
        (str(path), content(str(path).encode())),  # a str is a text
        ("größe\0", content("größe\0".encode())),
        (path, content(image=16)),
        (path.read_bytes(), content(image=16)),
        (picture(8), content(image=8)),
        ({"text": "a"}, content(b"a")),
        ({"image": str(path)}, content(image=16)),  # a str is a path
        ({"text": "a", "image": path}, content(b"a", 16)),
        ({"text": "", "image": path, "video": None}, content(image=16)),
        ({"video": [path, picture(8)]}, content(frames=(16, 8))),
        ({"video": (picture(8),), "text": "b"}, content(b"b", frames=(8,))),
    ]
    documents = [item for item, _ in sent]
    for query, query_bytes in sent:
        ranking = rich.rerank(query, documents)
        assert ranking.errors == {}
        expected = [expected_score(query_bytes, document_bytes) for _, document_bytes in sent]
        np.testing.assert_array_equal(ranking.scores, np.array(expected, np.float32))
    size = f"{path.stat().st_size} bytes"
    texts, images = [str(path), "größe\0"], [str(path), size, "8x5 image", "a", str(path), str(path), str(path)]
    assert ranking.names == [*texts, *images, f"{path} (2 frames)", "8x5 image"]
    pages = rich.rerank("a", pdf_pages(pdf))
    assert pages.names == [f"{pdf}, page {number}" for number in (1, 2, 3)]
    assert len(pages.order) == 3


def test_instruction_and_task(rich: Retriever) -> None:
    asked, named, plain = (
        rich.rerank("q", ["a"], instruction="Find it."),
        rich.rerank("q", ["a"], task="find"),
        rich.rerank("q", ["a"]),
    )
    assert asked.scores[0] == np.float32(expected_score(content(b"q"), content(b"a"), "Find it."))
    assert same(asked, named)
    assert not same(asked, plain)
    with pytest.raises(InvalidInput, match="task 'sort' is unknown"):
        rich.rerank("q", ["a"], task="sort")


def test_top_n(rich: Retriever) -> None:
    documents = ["a", "b", "c", "d", "a"]
    every = rich.rerank("q", documents)
    for top_n in (1, 3, 5, 50):
        best = rich.rerank("q", iter(documents), top_n=top_n)
        assert best.order == every.order[:top_n]
        np.testing.assert_array_equal(best.scores, every.scores)
    assert every.order.index(0) + 1 == every.order.index(4), "equal scores keep their order"
    with pytest.raises(ValueError, match="top_n is at least 1, or None for all, not 0"):
        rich.rerank("q", documents, top_n=0)
    with pytest.raises(TypeError):
        rich.rerank("q", documents, top_n=1.5)  # type: ignore[arg-type]


def test_no_documents(rich: Retriever) -> None:
    nothing: list[Iterable[str]] = [[], iter(())]
    for documents in nothing:
        ranking = rich.rerank("q", documents, top_n=3)
        assert ranking.scores.shape == (0,)
        assert ranking.scores.dtype == np.float32
        assert (len(ranking), ranking.order, ranking.names, ranking.errors) == (0, [], [], {})
    with pytest.raises(InvalidInput, match="the query"):
        rich.rerank("", [])


def test_bad_documents(rich: Retriever, tmp_path: Path, pdf: Path) -> None:
    missing = tmp_path / "missing.png"
    documents: list[Any] = [
        "good", missing, b"?", b"", "", 7, {}, {"txt": "a"}, {"image": picture(8), "video": [picture(8)]},
        {"text": "a", "image": missing}, {"text": "a", "image": b""}, {"video": []}, {"video": [picture(8), b"?"]},
        pdf, "\ud800", "refuse: too long", {"text": None}, "also good", "silence",
    ]  # fmt: skip
    ranking = rich.rerank("q", documents)
    messages = {index: str(error) for index, error in ranking.errors.items()}
    assert list(messages) == [*range(1, 17), 18]
    assert np.isnan(ranking.scores).tolist() == [index in messages for index in range(19)]
    assert sorted(ranking.order) == [0, 17]
    assert f"item 1 ({missing}): read: the file cannot be read (No such file or directory)" in messages[1]
    assert messages[2] == (
        "item 2 (1 bytes): preprocess: cannot be decoded (UnidentifiedImageError). "
        "Send a PNG, JPEG, WebP, GIF or TIFF file."
    )
    assert "read: the image is empty (0 bytes)" in messages[3]
    assert messages[4] == "item 4 (''): read: it is empty: neither a text, nor an image, nor a video"
    assert "a text (str), an image (path, bytes, PIL image) or a mapping is reranked, not int" in messages[5]
    assert "item 6 (dict): read: it is empty" in messages[6]
    assert "a mapping holds 'text', 'image' or 'video', not 'txt'" in messages[7]
    assert "a mapping holds an image or a video, not both" in messages[8]
    assert "read: the file cannot be read" in messages[9]
    assert "read: the image is empty" in messages[10], "not scored as a text alone"
    assert "read: the video has no frames" in messages[11]
    assert "preprocess: cannot be decoded" in messages[12]
    assert "this is a PDF, which has pages" in messages[13]
    assert "not valid Unicode" in messages[14]
    assert messages[15] == "item 15 ('refuse: too long'): preprocess: too long"
    assert "read: it is empty" in messages[16]
    assert isinstance(ranking.errors[15].cause, InvalidInput)
    assert ranking.errors[15].step == "preprocess"
    assert isinstance(ranking.errors[18].cause, UnexpectedAnswer)
    expected = rich.rerank("q", ["good", "also good"])
    np.testing.assert_array_equal(ranking.scores[[0, 17]], expected.scores)


def test_all_broken(rich: Retriever, tmp_path: Path) -> None:
    for documents in ([b"?"] * 4, [tmp_path / "missing.png"] * 4):
        ranking = rich.rerank("q", documents)
        assert np.isnan(ranking.scores).all()
        assert (len(ranking), ranking.order, list(ranking.errors)) == (4, [], [0, 1, 2, 3])


def test_bad_queries(rich: Retriever, judge: Retriever, tmp_path: Path) -> None:
    missing = tmp_path / "missing.png"
    for query, message in (
        ("refuse: no", r"^preprocess: query: no$"),
        (b"?", r"^preprocess: query: cannot be decoded"),
        (missing, rf"^read: the query \({missing}\): the file cannot be read \(No such file"),
        (3, r"^read: the query \(int\): a text \(str\), an image .* is reranked, not int"),
        ("", r"^read: the query \(''\): it is empty"),
    ):
        with pytest.raises(InvalidInput, match=message):
            rich.rerank(query, ["a"])  # type: ignore[arg-type]
    with pytest.raises(ServerFault, match="the graph fell over"):
        rich.rerank("fault", ["a"])
    with pytest.raises(InvalidInput, match=r"'judge' \(recipe 'standin'\) takes no images as the query, only texts"):
        judge.rerank(picture(8), ["a"])


def test_a_lost_request_ends_the_call(rich: Retriever) -> None:
    with pytest.raises(ServerFault, match="the graph fell over"):
        rich.rerank("q", ["a", "b", "c", "d", "fault"])


def test_texts_only(judge: Retriever) -> None:
    ranking = judge.rerank("q", ["a", picture(8), "b", {"text": "c", "image": picture(8)}, "d"])
    expected = [expected_score(content(b"q"), content(text)) for text in (b"a", b"b", b"d")]
    np.testing.assert_array_equal(ranking.scores[[0, 2, 4]], np.array(expected, np.float32))
    assert list(ranking.errors) == [1, 3]
    assert "takes no images as a document, only texts" in str(ranking.errors[1])
    with pytest.raises(InvalidInput, match="takes no instruction for reranking"):
        judge.rerank("q", ["a"], instruction="Find it.")


def test_misuse(rich: Retriever, retriever: Retriever) -> None:
    for wrong in ("a", b"a", Path("a.png"), picture(8), {"text": "a"}):
        with pytest.raises(TypeError, match=r"documents is a collection: for a single one write rerank\(query, \[doc"):
            rich.rerank("q", wrong)  # type: ignore[arg-type]
    with pytest.raises(UnknownModel, match="'toy' does not rerank, it only embeds texts and images"):
        retriever.rerank("q", ["a"])
    with pytest.raises(InvalidInput, match="has both an instruction and a task"):
        rich.rerank("q", ["a"], instruction="Find it.", task="find")


def test_documents_are_read_only_as_fast_as_they_are_sent(server: Server) -> None:
    taken = []

    def documents() -> Iterator[str]:
        for number in itertools.count():
            taken.append(number)
            yield "fault" if number == 4 else "sleep: 0.1"

    with Retriever(server.grpc_url, "rich", concurrency=1) as retriever, pytest.raises(ServerFault):
        retriever.rerank("q", documents())
    assert len(taken) == 6


def test_what_a_generator_raises_comes_through(rich: Retriever) -> None:
    def documents() -> Iterator[str]:
        yield "a"
        raise ZeroDivisionError("in the caller's own code")

    with pytest.raises(ZeroDivisionError, match="in the caller's own code"):
        rich.rerank("q", documents())


def test_async_equals_sync(rich: Retriever, url: str, protocol: Protocol) -> None:
    documents: list[RerankItem] = ["a", picture(8), b"?", {"text": "b", "video": [picture(8)]}, "c"]

    async def rerank() -> Reranking:
        async with AsyncRetriever(url, "rich", protocol=protocol) as other:
            return await other.rerank("q", documents, task="find", top_n=2)

    assert same(asyncio.run(rerank()), rich.rerank("q", documents, task="find", top_n=2))
