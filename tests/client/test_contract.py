"""Servers that do not keep the contract of a served retriever are refused, and what is sent to those that do."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from periscope_client import (
    AccessDenied,
    FingerprintMismatch,
    InvalidInput,
    Retriever,
    ServerUnavailable,
    UnexpectedAnswer,
    UnknownModel,
)
from periscope_client._contract import Output
from periscope_client._description import retriever_names
from periscope_client._errors import RequestError
from periscope_client._transport import Tensors
from periscope_serve.server import Server

from .fake import FakeTransport, Outputs, answer, config


def test_server_without_retrievers(transport: FakeTransport) -> None:
    transport.description = UnknownModel("no")
    transport.index = ["resnet", "bert"]
    with (
        pytest.raises(UnknownModel, match="none at all, only these models: bert, resnet"),
        Retriever("a:1", "toy", transport=transport),
    ):
        pass  # pragma: no cover
    assert transport.closed


def test_only_ensembles_are_retrievers(transport: FakeTransport) -> None:
    """Steps may be called as retrievers' models are, and retrievers as anything."""
    for name in ("qrr_rerank", "my_embed_text_rerank", "a_rerank_embed_video"):
        transport.others[name] = config()
    for name in ("qrr_preprocess_rerank", "a_rerank_preprocess_embed_video"):
        transport.others[name] = {"backend": "python"}
    listed = [*transport.others, "gone_since_rerank", "pages_embed_image", "pages_embed_text", "qrr_maxsim"]
    names = asyncio.run(retriever_names(transport, listed))
    assert names == ["a_rerank", "my_embed_text", "pages", "qrr"]


def test_the_only_retriever_needs_no_name(transport: FakeTransport) -> None:
    transport.index = ["pages_embed_image", "pages_embed_text", "pages_maxsim", "resnet"]
    with Retriever("a:1", transport=transport) as retriever:
        assert retriever.info().model == "pages"
    refused: list[tuple[list[str] | RequestError, str]] = [
        (["b_embed_text", "a_embed_image"], "the server at a:1 has several retrievers: 'a', 'b'. Give the name of one"),
        (["resnet"], "the server at a:1 has no retriever, only these models: resnet"),
        (InvalidInput("closed to you"), r"does not tell which retrievers it has \(closed to you\)"),
    ]
    for index, message in refused:
        transport.index = index
        with pytest.raises(UnknownModel, match=message), Retriever("a:1", transport=transport):
            pass  # pragma: no cover
    for error in (AccessDenied("no token"), UnexpectedAnswer("not Triton's port")):
        transport.index = error
        with (
            pytest.raises(type(error), match=rf"{error.message} This was asked for the retrievers"),
            Retriever("a:1", transport=transport),
        ):
            pass  # pragma: no cover
    transport.index = ServerUnavailable("gone")
    with pytest.raises(ServerUnavailable, match="gone"), Retriever("a:1", transport=transport, retries=0):
        pass  # pragma: no cover


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (config(fingerprint=None), "lacks the parameter 'fingerprint'"),
        (config(fingerprint=""), "lacks the parameter 'fingerprint'"),
        ({"output": []}, "lacks the parameter 'fingerprint'"),
        (config(outputs=("late",)), "without the mask"),
        (config(outputs=("score",)), "neither late nor dense"),
    ],
)
def test_configurations_that_break_the_contract(
    transport: FakeTransport, description: dict[str, Any], message: str
) -> None:
    transport.description = description
    with pytest.raises(UnexpectedAnswer, match=message), Retriever("fake:1", "toy", transport=transport):
        pass  # pragma: no cover


def without(name: str) -> Outputs:
    outputs = answer()
    del outputs[name]
    return outputs


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (without("late"), "'late' is missing"),
        (without("late_mask"), "'late_mask' is missing"),
        (answer() | {"late": np.zeros((3, 2), np.float32)}, r"'late' has the shape \(3, 2\)"),
        (answer() | {"late": np.zeros((2, 3, 2), np.float32)}, r"'late' has the shape \(2, 3, 2\)"),
        (answer() | {"late_mask": np.ones((1, 4), np.int32)}, "do not fit together"),
        (
            answer() | {"late": np.array([[[1, np.nan], [0, np.inf], [0, 0]]], np.float32)},
            r"2 of the 4 values of the late vectors are not finite .*Export it in another \(fp32, bf16\)",
        ),
    ],
)
def test_answers_that_break_the_contract(transport: FakeTransport, reply: Outputs, message: str) -> None:
    transport.reply = reply
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        kept = retriever.embed_text(["a"], on_error="keep")
    assert isinstance(kept.errors[0].cause, UnexpectedAnswer)
    with pytest.raises(UnexpectedAnswer, match=message):
        raise kept.errors[0].cause


def test_different_weights_for_texts_and_images(server: Server) -> None:
    with (
        pytest.raises(FingerprintMismatch, match="fingerprints weights-a and not-weights-a"),
        Retriever(server.grpc_url, "split"),
    ):
        pass  # pragma: no cover


def test_inputs_on_the_wire(transport: FakeTransport) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []

    def reply(model: str, inputs: Tensors) -> Outputs:
        sent.append((model, {name: array.tolist() for name, array in inputs.items()}))
        return answer()

    transport.reply = reply
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        retriever.embed_text(["ä"], role="document")
        retriever.embed_text(["a"], role=None)
        retriever.embed_image([b"ends with zeros\0\0"])
    # By name: what else a server offers, nobody here asked for.
    assert transport.asked == [("late", "late_mask")] * 3
    assert sent == [
        ("toy_embed_text", {"TEXT": [["ä".encode()]], "ROLE": [[b"document"]]}),
        ("toy_embed_text", {"TEXT": [[b"a"]]}),
        ("toy_embed_image", {"IMAGE": [[b"ends with zeros\0\0"]], "ROLE": [[b"document"]]}),
    ]


@pytest.mark.parametrize(
    ("outputs", "tensors"),
    [
        (["late"], ("late", "late_mask")),
        (["dense"], ("dense",)),
        (["late", "dense"], ("late", "late_mask", "dense")),
        (None, ("late", "late_mask", "dense")),
    ],
)
def test_only_what_is_wanted_is_asked_for(
    transport: FakeTransport, outputs: list[Output] | None, tensors: tuple[str, ...]
) -> None:
    """An ensemble may offer more than this client knows; whatever is not named is not computed."""
    transport.description = config(outputs=("late", "late_mask", "dense", "visual_grid"))
    transport.reply = answer() | {"dense": np.ones((1, 2), np.float32)}
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        retriever.embed_text(["a"], outputs=outputs)
        retriever.embed_image([b"a"], outputs=outputs)
    assert transport.asked == [tensors] * 2
