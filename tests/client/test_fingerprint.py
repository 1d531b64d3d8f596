"""Vectors never appear under the fingerprint of other weights."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from periscope_client import (
    AsyncRetriever,
    FingerprintMismatch,
    Retriever,
    ServerUnavailable,
    _connection,
)
from periscope_client._transport import Tensors

from .fake import FakeTransport, Outputs, answer, config


def test_fingerprint_is_read_again_when_it_may_be_old(
    transport: FakeTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Retriever("fake:1", "toy", transport=transport) as retriever:
        for _ in range(20):
            retriever.embed_text(["a"])
        assert transport.configs_read == 4, "once a model, and not again within a second"
        monkeypatch.setattr(_connection, "FRESH_SECONDS", 0.0)
        transport.description = ServerUnavailable("gone just now")
        assert len(retriever.embed_text(["a"])) == 1, "vectors that have arrived are not dropped for that"
        transport.description = config("g")
        with pytest.raises(FingerprintMismatch, match="f before, g now"):
            retriever.embed_text(["a"])
        assert retriever.embed_text(["a"]).fingerprint == "g"


def test_a_change_of_weights_concerns_every_call_in_flight(transport: FakeTransport) -> None:
    """One call notices the change first; the other must not take the new weights for those it began with."""

    async def embed() -> tuple[object, object]:
        async with AsyncRetriever("fake:1", "toy", transport=transport) as retriever:
            retries: list[str] = []

            def reply(model: str, inputs: Tensors) -> Outputs:
                if len(retries) < 2:
                    retries.append(model)
                    transport.description = config("g")
                    raise ServerUnavailable("restarting")
                return answer()

            transport.reply = reply
            calls = (retriever.embed_text(["a"]), retriever.embed_image([b"b"]))
            return await asyncio.gather(*calls, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(embed())] == [FingerprintMismatch] * 2


def test_a_change_that_another_call_has_noticed(transport: FakeTransport) -> None:
    """The change was read a moment ago, so nothing is read again; the call that began before it fails all the same."""

    async def embed() -> tuple[object, object]:
        async with AsyncRetriever("fake:1", "toy", transport=transport) as retriever:
            noticed = asyncio.Event()

            def reply(model: str, inputs: Tensors) -> Outputs:
                if model == "toy_embed_text" and transport.description == config("f"):
                    transport.description = config("g")
                    raise ServerUnavailable("restarting")
                return answer()

            transport.reply = reply
            infer = transport.infer

            async def wait_for_the_other(
                model: str, inputs: Tensors, outputs: Sequence[str], request_id: str = ""
            ) -> Outputs:
                produced = await infer(model, inputs, outputs)
                if model == "toy_embed_image":
                    await noticed.wait()
                return produced

            transport.infer = wait_for_the_other  # type: ignore[method-assign]
            image = asyncio.ensure_future(retriever.embed_image([b"b"]))
            text = (await asyncio.gather(retriever.embed_text(["a"]), return_exceptions=True))[0]
            noticed.set()
            return text, (await asyncio.gather(image, return_exceptions=True))[0]

    assert [type(outcome) for outcome in asyncio.run(embed())] == [FingerprintMismatch] * 2
