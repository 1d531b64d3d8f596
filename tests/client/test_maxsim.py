"""Scores of the server equal the slow twin's, however the work is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from periscope_client import (
    FingerprintMismatch,
    InvalidInput,
    MissingVectors,
    Retriever,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client import _maxsim as maxsim
from periscope_client._endpoint import Protocol

from .fake import FakeTransport
from .vectors import embeddings, maxsim_numpy

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=25)


def test_equals_the_twin(retriever: Retriever) -> None:
    queries, documents = embeddings(3, 1, 9), embeddings(4, 20, 1, 7, 7)
    scores_QN = retriever.maxsim(queries, documents)
    assert scores_QN.dtype == np.float32
    np.testing.assert_allclose(
        scores_QN, maxsim_numpy(queries.late_vectors(), documents.late_vectors()), atol=1e-5, rtol=0
    )


def test_cut_into_many_requests(retriever: Retriever, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, documents = embeddings(*range(1, 12)), embeddings(*range(30, 1, -1))
    whole_QN = retriever.maxsim(queries, documents)
    monkeypatch.setattr(maxsim, "REQUEST_BYTES", 4096)
    cut = list(maxsim.tiles(list(range(1, 12)), list(range(30, 1, -1)), 4))
    assert len(cut) > 1
    np.testing.assert_allclose(retriever.maxsim(queries, documents), whole_QN, atol=1e-5, rtol=0)


@given(lengths, lengths, st.integers(1, 20_000), st.integers(1, 20_000))
def test_tiles_cover_every_pair_once_within_the_limits(
    queries: list[int], documents: list[int], request: int, similarity: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maxsim, "REQUEST_BYTES", request)
        patch.setattr(maxsim, "SIMILARITY_BYTES", similarity)
        seen = np.zeros((len(queries), len(documents)), int)
        for tile in maxsim.tiles(queries, documents, 4):
            seen[np.ix_(tile.queries, tile.documents)] += 1
            query_tokens = len(tile.queries) * max(queries[i] for i in tile.queries)
            document_tokens = len(tile.documents) * max(documents[i] for i in tile.documents)
            if len(tile.queries) > 1:
                assert 20 * query_tokens <= request / 4
            if len(tile.documents) > 1:
                assert 20 * document_tokens <= request * 3 / 4
                assert 4 * query_tokens * document_tokens <= similarity
    assert (seen == 1).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_padding(lengths: list[int]) -> None:
    vectors = embeddings(*lengths).late_vectors()
    padded_NSK, mask_NS = maxsim.pad(vectors)
    assert padded_NSK.shape == (len(lengths), max(1, *lengths), 4)
    assert mask_NS.dtype == np.int32
    assert mask_NS.sum(axis=1).tolist() == lengths
    for vectors_SK, padded_SK, mask_S in zip(vectors, padded_NSK, mask_NS, strict=True):
        np.testing.assert_array_equal(padded_SK[mask_S == 1], vectors_SK)
        assert not padded_SK[mask_S == 0].any()


def test_nothing_to_compare(retriever: Retriever) -> None:
    assert list(maxsim.blocks([], 5)) == []
    assert retriever.maxsim(embeddings(), embeddings(3)).shape == (0, 1)
    assert retriever.maxsim(embeddings(3), embeddings()).shape == (1, 0)


def test_refused(retriever: Retriever, url: str, protocol: Protocol) -> None:
    with pytest.raises(FingerprintMismatch):
        retriever.maxsim(embeddings(3), embeddings(3, fingerprint="other"))
    with pytest.raises(MissingVectors, match=r"1 of 2 items failed .*item 1 .*without_failed"):
        retriever.maxsim(retriever.embed_text(["a"]), retriever.embed_text(["a", "fault"], on_error="keep"))
    with pytest.raises(InvalidInput, match="unexpected shape for input"):
        retriever.maxsim(embeddings(3, width=5), embeddings(3, width=5))
    with pytest.raises(ValueError, match=r"one width, not \[4, 5\]"):
        retriever.maxsim(embeddings(3, width=5), embeddings(3))
    with Retriever(url, "flat", protocol=protocol) as flat:
        dense = flat.embed_text(["a"])
        with pytest.raises(MissingVectors, match="no late vectors"):
            flat.maxsim(dense, dense)
        with pytest.raises(UnknownModel, match="flat_maxsim"):
            flat.maxsim(embeddings(3), embeddings(3))


def test_a_document_without_vectors_is_last(retriever: Retriever) -> None:
    assert retriever.maxsim(embeddings(3), embeddings(2, 0)).tolist()[0][1] == -np.inf


def test_scores_that_are_none(transport: FakeTransport) -> None:
    transport.reply = {"score": np.array([[1, np.nan]], np.float32)}
    with (
        Retriever("fake:1", "toy", transport=transport) as retriever,
        pytest.raises(UnexpectedAnswer, match="gave no score, but nan, of 'item 0' and 'item 1'"),
    ):
        retriever.maxsim(embeddings(3), embeddings(4, 4))


def test_wrong_number_of_scores(transport: FakeTransport) -> None:
    for reply in ({}, {"score": np.zeros((2, 1), np.float32)}):
        transport.reply = reply
        with (
            Retriever("fake:1", "toy", transport=transport) as retriever,
            pytest.raises(UnexpectedAnswer, match=r"\(1, 2\) scores"),
        ):
            retriever.maxsim(embeddings(3), embeddings(3, 4))
