"""Servers that are late, busy, slow, killed or replaced, seen from the client."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from periscope_client import (
    Embeddings,
    FingerprintMismatch,
    ItemsFailed,
    RequestTimeout,
    Retriever,
    ServerLost,
    ServerUnavailable,
    Timeout,
    UnusableRetriever,
)
from periscope_client._endpoint import Protocol
from periscope_serve.server import Server

from .fake import FakeTransport
from .restartable import Restartable, later
from .vectors import same


def test_late_then_killed_then_replaced(restartable: Restartable, protocol: Protocol) -> None:
    url = restartable.url(protocol)
    with (
        pytest.raises(ServerUnavailable, match=rf"no server answers at {url} over {protocol} .*usually 800\d"),
        Retriever(url, "toy", protocol=protocol, retries=1),
    ):
        pass  # pragma: no cover

    with (
        later(0, lambda: restartable.start("weights-a")),
        Retriever(url, "toy", protocol=protocol, retries=40) as patient,
    ):
        before = patient.embed_text(["quick"])

    with Retriever(url, "toy", protocol=protocol, retries=2, concurrency=2) as retriever:
        # Two in flight and two encoders: "quick" is done, two sleep when the server dies, the others are not sent.
        began = time.monotonic()
        with later(0.7, restartable.kill), pytest.raises(ServerLost) as caught:
            retriever.embed_text(["quick", "sleep: 20", "sleep: 21", *["never sent"] * 50])
        assert time.monotonic() - began < 8
        lost = caught.value
        assert isinstance(lost, ServerUnavailable)
        assert isinstance(lost, ItemsFailed)
        assert f"no server answers at {url} over {protocol}" in lost.message
        assert "3 attempts" in lost.message
        assert sorted(lost.errors) == list(range(1, 53))
        assert same(lost.embeddings[0], before)
        with pytest.raises(ServerUnavailable):
            retriever.maxsim(before, before)

        # The server comes back while a request is being tried again, but with other weights.
        retriever._async._connection._retries = None
        with later(0, lambda: restartable.start("weights-b")), pytest.raises(FingerprintMismatch) as mismatch:
            retriever.embed_text(["quick"])
        assert "weights-a before, weights-b now" in str(mismatch.value)

        # From then on its vectors are those of the new weights, and are not mixed with the old ones.
        after = retriever.embed_text(["quick"])
        assert after.fingerprint == "weights-b"
        for mix in (lambda: retriever.maxsim(before, after), lambda: Embeddings.concat([before, after])):
            with pytest.raises(FingerprintMismatch, match=r"weights-a.* weights-b.*Embed one side again"):
                mix()

        # Replaced between two calls: no request fails, and still nothing passes under the old name.
        restartable.kill()
        restartable.start("weights-c")
        with pytest.raises(FingerprintMismatch, match="weights-b before, weights-c now"):
            retriever.embed_text(["quick"])


def test_a_generator_is_not_read_on_when_the_server_is_lost(transport: FakeTransport) -> None:
    taken = []

    def texts() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield "a"

    with Retriever("fake:1", "toy", transport=transport, retries=0, concurrency=3) as retriever:
        transport.reply = transport.description = ServerUnavailable("gone")
        with pytest.raises(ServerLost) as caught:
            retriever.embed_text(texts())
    assert len(taken) < 10
    assert sorted(caught.value.errors) == list(range(len(caught.value.embeddings)))


def test_busy_is_tried_again(retriever: Retriever, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    assert len(retriever.embed_text([f"busy: 2 {counter}", "a"])) == 2
    assert counter.stat().st_size == 3


def test_busy_for_too_long_costs_only_its_item(url: str, protocol: Protocol, tmp_path: Path) -> None:
    with Retriever(url, "toy", protocol=protocol, retries=1) as retriever, pytest.raises(ItemsFailed) as caught:
        retriever.embed_text(["a", f"busy: 9 {tmp_path / 'counter'}", "b"])
    assert not isinstance(caught.value, ServerLost), "the server is there"
    assert list(caught.value.errors) == [1]
    assert "the queue is full (2 attempts in" in str(caught.value)


def test_never_tried_again(retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    transport = retriever._async._connection._transport
    assert transport is not None
    infer = transport.infer

    async def counting(model: str, *others: object) -> object:
        sent.append(model)
        return await infer(model, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(transport, "infer", counting)
    assert len(retriever.embed_text(["refuse: no", "fault"], on_error="keep").errors) == 2
    assert len(sent) == 2


def test_timeout(url: str, protocol: Protocol) -> None:
    with Retriever(url, "toy", protocol=protocol, timeout=Timeout(request=0.4)) as retriever:
        began = time.monotonic()
        with pytest.raises(ItemsFailed, match=r"item 1 \('sleep: 1.2'\): no answer within 0.4 s. Allow more") as caught:
            retriever.embed_text(["a", "sleep: 1.2"])
        assert time.monotonic() - began < 1
        assert isinstance(caught.value.errors[1].cause, RequestTimeout)


def test_a_server_that_never_answers(protocol: Protocol) -> None:
    """Something accepts connections and says nothing: the limit of `connect` holds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        retriever = Retriever(url, "toy", protocol=protocol, timeout=Timeout(connect=0.3))
        with pytest.raises(RequestTimeout, match=r"no answer within 0\.3 s"):
            retriever.info()
        retriever.close()


def test_interrupted(server: Server) -> None:
    """Ctrl-C while waiting cancels the requests, a second later; the retriever stays usable."""
    with Retriever(server.grpc_url, "toy") as retriever:
        with later(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)), pytest.raises(KeyboardInterrupt):
            retriever.embed_text(["sleep: 3"])
        time.sleep(0.2)
        loop = retriever._started()._loop
        assert asyncio.all_tasks(loop), "it is cancelled at once"
        time.sleep(1)
        assert not asyncio.all_tasks(loop), "the request goes on after its caller has left"
        assert len(retriever.embed_text(["a"])) == 1


def test_what_is_given_up_is_not_cancelled_in_the_moment_of_its_answer(server: Server) -> None:
    """Triton 2.51 ends with signal 11 when it is: requests cancelled at once ended it within 251 rounds, ten times."""
    page = Image.new("RGB", (8, 5))
    for _ in range(300):
        with Retriever(server.grpc_url, "rich") as retriever:
            for texts in (["a"], (text for text in ("a", "b", "c"))):
                with pytest.raises(ValueError, match="text has one entry"):
                    retriever.embed_image((page for _ in range(2)), texts)
    time.sleep(0.5)
    server.check()


def test_closing_waits_for_what_is_in_flight(server: Server) -> None:
    """Briefly: an answer that is near is waited for, one that is not is not."""
    for seconds, waited in ((0.5, (0.2, 0.8)), (2.5, (0.8, 1.6))):
        retriever = Retriever(server.grpc_url, "toy")
        began = time.monotonic()
        with later(0.2, retriever.close), pytest.raises(UnusableRetriever, match="closed before the call was done"):
            retriever.embed_text([f"sleep: {seconds}"])
        assert waited[0] < time.monotonic() - began - 0.2 < waited[1]
