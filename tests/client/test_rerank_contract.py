"""Requests to a reranking model, and answers of one that does not keep the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from periscope_client import (
    FingerprintMismatch,
    InvalidInput,
    Retriever,
    ServerUnavailable,
    UnexpectedAnswer,
    _connection,
    _rerank,
)
from periscope_client._transport import Tensors

from .fake import FakeTransport, Outputs


def reranker(fingerprint: str = "f", most: str | None = "3") -> dict[str, Any]:
    parameters = {"recipe": "r", "fingerprint": fingerprint, "max_candidates": most}
    names = ("QUERY_TEXT", "QUERY_IMAGE", "QUERY_VIDEO", "TEXT", "IMAGE", "VIDEO", "VIDEO_FRAMES")
    return {
        "parameters": {name: {"string_value": value} for name, value in parameters.items() if value is not None},
        "input": [{"name": name} for name in names],
        "output": [{"name": "score", "dims": ["-1", "1"]}, {"name": "status", "dims": ["-1"]}],
    }


def scored(*scores: float, status: tuple[bytes, ...] | None = None) -> Outputs:
    statuses = np.array(status or [b""] * len(scores), np.object_)
    return {"score": np.array(scores, np.float32).reshape(-1, 1), "status": statuses}


def test_inputs_on_the_wire(transport: FakeTransport) -> None:
    sent: list[dict[str, Any]] = []

    def reply(model: str, inputs: Tensors) -> Outputs:
        assert model == "toy_rerank"
        sent.append({name: array.tolist() for name, array in inputs.items()})
        return scored(*range(len(next(value for name, value in inputs.items() if not name.startswith("QUERY")))))

    transport.others["toy_rerank"] = reranker()
    transport.reply = reply
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        retriever.rerank("q", ["a", "b", "c", "d"])
        retriever.rerank({"text": "q", "image": b"i\0"}, [b"1", {"text": "a", "image": b"2\0"}, "b"])
        retriever.rerank({"video": [b"f", b"g"]}, [{"video": [b"1", b"2"]}, b"3", {"video": [b"4"], "text": "c"}])
    assert transport.asked == [("score", "status")] * 4
    assert {"QUERY_TEXT": [b"q"], "TEXT": [b"a", b"b", b"c"]} in sent
    assert {"QUERY_TEXT": [b"q"], "TEXT": [b"d"]} in sent
    assert {
        "QUERY_TEXT": [b"q"],
        "QUERY_IMAGE": [b"i\0"],
        "TEXT": [b"", b"a", b"b"],
        "IMAGE": [b"1", b"2\0", b""],
    } in sent
    assert {
        "QUERY_VIDEO": [b"f", b"g"],
        "TEXT": [b"", b"", b"c"],
        "IMAGE": [b"", b"3", b""],
        "VIDEO": [b"1", b"2", b"4"],
        "VIDEO_FRAMES": [2, 0, 1],
    } in sent


def test_large_documents_are_cut_into_more_requests(transport: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[list[int]] = []

    def reply(model: str, inputs: Tensors) -> Outputs:
        sent.append([len(text) for text in inputs["TEXT"]])
        return scored(*map(float, sent[-1]))

    monkeypatch.setattr(_rerank, "REQUEST_BYTES", 10)
    transport.others["toy_rerank"] = reranker(most="5")
    transport.reply = reply
    lengths = [4, 6, 1, 30, 2, 3, 3]
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        ranking = retriever.rerank("q", ["x" * length for length in lengths])
    assert ranking.scores.tolist() == lengths
    assert sorted(sent) == [[1], [2], [3, 3], [4, 6], [30]]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({}, r"score and status of 2 candidates have the shapes \[None, None\]"),
        (scored(1), r"\[\(1, 1\), \(1,\)\]"),
        ({**scored(1, 2), "score": np.zeros(2, np.float32)}, r"\[\(2,\), \(2,\)\]"),
        ({**scored(1, 2), "status": np.array([b""], np.object_)}, r"\[\(2, 1\), \(1,\)\]"),
    ],
)
def test_answers_that_break_the_contract(transport: FakeTransport, reply: Outputs, message: str) -> None:
    transport.others["toy_rerank"] = reranker()
    transport.reply = reply
    with Retriever("fake:1", "toy", transport=transport) as retriever, pytest.raises(UnexpectedAnswer, match=message):
        retriever.rerank("q", ["a", "b"])


def test_a_status_wins_over_a_score(transport: FakeTransport) -> None:
    transport.others["toy_rerank"] = reranker()
    transport.reply = scored(0.5, 0.25, status=(b"preprocess: candidate 0: image: too \xff large.\nSend less.", b""))
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        ranking = retriever.rerank("q", ["a", "b"])
    assert str(ranking.errors[0]) == "item 0 ('a'): preprocess: image: too � large. Send less."
    assert np.isnan(ranking.scores[0])
    assert ranking.order == [1]


@pytest.mark.parametrize("most", [None, "", "0", "many"])
def test_no_limit(transport: FakeTransport, most: str | None) -> None:
    transport.others["toy_rerank"] = reranker(most=most)
    with pytest.raises(UnexpectedAnswer, match="the parameter 'max_candidates' of the model 'toy_rerank'"):
        Retriever("fake:1", "toy", transport=transport).info()


def test_takes_nothing(transport: FakeTransport) -> None:
    transport.others["toy_rerank"] = {**reranker(), "input": []}
    with (
        Retriever("fake:1", "toy", transport=transport) as retriever,
        pytest.raises(InvalidInput, match="as the query, only nothing"),
    ):
        retriever.rerank("q", ["a"])


def test_different_weights(transport: FakeTransport) -> None:
    transport.others["toy_rerank"] = reranker("g")
    with pytest.raises(FingerprintMismatch, match=r"'toy_embed_text' and 'toy_rerank' .*fingerprints f and g"):
        Retriever("fake:1", "toy", transport=transport).info()


def test_weights_that_change_during_a_call(transport: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(model: str, inputs: Tensors) -> Outputs:
        transport.description["parameters"]["fingerprint"]["string_value"] = "g"  # type: ignore[index]
        transport.others["toy_rerank"] = reranker("g")
        return scored(1)

    monkeypatch.setattr(_connection, "FRESH_SECONDS", 0.0)
    transport.others["toy_rerank"] = reranker()
    transport.reply = reply
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        with pytest.raises(FingerprintMismatch, match="f before, g now"):
            retriever.rerank("q", ["a"])
        assert retriever.rerank("q", ["a"]).fingerprint == "g"


def test_a_lost_server(transport: FakeTransport) -> None:
    transport.others["toy_rerank"] = reranker()
    transport.reply = ServerUnavailable("gone")
    with (
        Retriever("fake:1", "toy", transport=transport, retries=0) as retriever,
        pytest.raises(ServerUnavailable, match="gone"),
    ):
        retriever.rerank("q", ["a"] * 10)
