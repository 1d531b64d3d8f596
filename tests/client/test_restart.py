"""A server that goes away and comes back under a call: nothing is lost, and nobody asks more often than needed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from periscope_client import (
    AsyncRetriever,
    Embeddings,
    ItemsFailed,
    Retriever,
    ServerLost,
    ServerUnavailable,
    Timeout,
    UnknownModel,
    _connection,
    _timeout,
)
from periscope_client._transport import Tensors
from periscope_client.console import main

from .fake import FakeTransport, Outputs, answer
from .restartable import Restartable, later
from .vectors import embeddings, same

TEXTS = [f"sleep: 0.03{number:04}" for number in range(80)]
PAGES = [Image.new("RGB", (8 * (1 + number % 9), 8), (number, 0, 0)) for number in range(100)]


def paced(pages: list[Image.Image]) -> Iterator[Image.Image]:
    """Slow enough that a server can be restarted in between."""
    for page in pages:
        time.sleep(0.02)
        yield page


def test_nothing_is_lost(restartable: Restartable, tmp_path: Path) -> None:
    """A command that comes too early, `kill -9` and SIGTERM under calls of many texts and pages."""
    url, output = restartable.url("grpc"), tmp_path / "vectors.npz"
    with later(0, lambda: restartable.start("weights-a")):
        assert main(["embed", "--text", "a", "--output", str(output), "--url", url, "--model", "toy"]) == 0
    assert len(Embeddings.load(output)) == 1

    with (
        Retriever(url, "toy", timeout=30) as grpc,
        Retriever(restartable.url("http"), "toy", protocol="http", timeout=30) as http,
        concurrent.futures.ThreadPoolExecutor() as threads,
    ):
        texts, pages = grpc.embed_text(TEXTS[:8]), grpc.embed_image(PAGES)
        http.info()

        def begin(*retrievers: Retriever) -> list[concurrent.futures.Future[Embeddings]]:
            return [
                threads.submit(work)
                for retriever in retrievers
                for work in (
                    lambda retriever=retriever: retriever.embed_text(TEXTS),
                    lambda retriever=retriever: retriever.embed_image(paced(PAGES)),
                )
            ]

        for signum, retrievers in ((signal.SIGKILL, (grpc, http)), (signal.SIGTERM, (grpc,))):
            if signum == signal.SIGTERM:
                http.close()  # Triton waits for connections over HTTP that are open
            calls = begin(*retrievers)
            time.sleep(0.6)
            assert not any(call.done() for call in calls)
            restartable.kill(signum)
            assert not all(call.done() for call in calls)
            restartable.start("weights-a")
            for call in calls:
                embeddings = call.result(30)
                assert embeddings.errors == {}
                if len(embeddings) == len(TEXTS):
                    assert embeddings.names == TEXTS
                    assert same(embeddings[:8], texts)
                else:
                    assert same(embeddings, pages)


def unavailable(text: str = "gone") -> ServerUnavailable:
    return ServerUnavailable(text)


def test_one_look_at_a_time(transport: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many requests wait: they do not ask, and are sent again once there is an answer."""
    monkeypatch.setattr(_timeout, "FIRST_DELAY", 0.1)
    sent: list[str] = []

    def reply(model: str, inputs: Tensors) -> Outputs:
        sent.append(inputs["TEXT"][0, 0].decode())
        if away:
            transport.description = unavailable()
            raise unavailable()
        return answer()

    transport.reply = reply
    away = False
    with Retriever("fake:1", "toy", transport=transport, concurrency=16) as retriever:
        retriever.embed_text(["a"])
        healthy, away, before = transport.description, True, transport.configs_read

        def back() -> None:
            nonlocal away
            away, transport.description = False, healthy

        texts = [str(number) for number in range(40)]
        with later(0.8, back):
            assert retriever.embed_text(texts).names == texts
    assert sent[0] == "a"
    assert sorted(sent[1:17]) == sorted(texts[:16]), "nothing new is sent to a server that is away"
    assert sorted(sent[17:]) == sorted(texts), "what was in flight is sent again, the rest once"
    assert (transport.configs_read - before) / 4 < 8


def test_a_wait_in_vain_is_not_repeated(transport: FakeTransport) -> None:
    """Requests that waited for their turn, while others waited for the server, have waited for it too."""

    async def embed() -> tuple[list[object], float]:
        async with AsyncRetriever("fake:1", "toy", transport=transport, concurrency=1, wait=0.6) as retriever:
            transport.reply = transport.description = unavailable()
            began = time.monotonic()
            calls = [retriever.embed_text(["a"]) for _ in range(4)]
            outcomes: list[object] = list(await asyncio.gather(*calls, return_exceptions=True))
            return outcomes, time.monotonic() - began

    outcomes, seconds = asyncio.run(embed())
    assert [type(outcome) for outcome in outcomes] == [ServerLost] * 4
    assert seconds < 1.2


def test_a_model_that_was_there_is_unavailable(transport: FakeTransport) -> None:
    """A server that stops or starts does not know its own models: by its words alone that would be a wrong name."""
    failures = 3

    def reply(model: str, inputs: Tensors) -> Outputs:
        nonlocal failures
        if (failures := failures - 1) >= 0:
            raise UnknownModel("Request for unknown model: 'toy_embed_text' is not found")
        return answer()

    with Retriever("fake:1", "toy", transport=transport) as retriever:
        transport.reply = reply
        assert len(retriever.embed_text(["a"])) == 1
        failures = 1
        with pytest.raises(UnknownModel):
            retriever.maxsim(embeddings(1, fingerprint="f"), embeddings(1, fingerprint="f"))
    failures = 99
    said = r"is not found, though it was there before \(\d attempts in 0\.[3-9] s"
    with Retriever("fake:1", "toy", transport=transport, wait=0.3) as retriever, pytest.raises(ItemsFailed, match=said):
        retriever.embed_text(["a"])


def test_half_a_retriever_is_no_news(transport: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is stopping or starting has other models than the retriever."""
    monkeypatch.setattr(_connection, "FRESH_SECONDS", 0.0)
    config = transport.config
    missing: set[str] = set()

    async def partly(model: str) -> dict[str, Any]:
        if model in missing:
            raise UnknownModel(f"Request for unknown model: {model!r} is not found")
        return await config(model)

    monkeypatch.setattr(transport, "config", partly)
    with Retriever("fake:1", "toy", transport=transport, wait=0) as retriever:
        whole = retriever.info()
        for name in ("toy_embed_image", "toy_embed_text"):
            missing.add(name)
            assert len(retriever.embed_text(["a"])) == 1, "what has arrived is kept"
            assert retriever.info() == whole
        transport.reply = unavailable()
        with pytest.raises(ItemsFailed):
            retriever.embed_text(["a"])
        assert retriever.info() == whole
        missing.clear()
        transport.reply = answer()
        assert len(retriever.embed_image([b"a"])) == 1

        # Other weights, or more than there was, are news.
        transport.others["toy_embed_video"] = transport.description  # type: ignore[assignment]
        retriever.embed_text(["a"])
        assert retriever.info() == dataclasses.replace(whole, accepts=("text", "image", "video"))


def test_how_long(transport: FakeTransport) -> None:
    """By default longer than a restart takes, and not beyond `timeout`; before the first answer not as long."""

    def waits(**options: Any) -> tuple[float, float]:
        with Retriever("fake:1", "toy", transport=transport, **options) as retriever:
            connection = retriever._async._connection
            return connection._opening_wait, connection._wait

    assert waits() == (8, 30)
    assert waits(timeout=Timeout(request=5)) == (8, 5)
    assert waits(timeout=Timeout(connect=5)) == (5, 30)
    assert waits(timeout=5, wait=60) == (60, 60)
    assert waits(wait=0) == (0, 0)
    assert waits(retries=3) == (30, 30)


@pytest.mark.usefixtures("reached_by_commands")
def test_commands_say_that_they_wait(
    transport: FakeTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_timeout, "QUIET_SECONDS", 0.0)
    healthy, transport.description = transport.description, unavailable("no server answers")

    def back() -> None:
        transport.description = healthy

    arguments = ["embed", "--text", "a", "--output", str(tmp_path / "v.npz"), "--url", "fake:1", "--model", "toy"]
    with later(0.4, back):
        assert main(arguments) == 0
    waiting, again = capsys.readouterr().err.splitlines()
    assert waiting == "periscope embed: waiting up to 120 s for the server at fake:1: no server answers"
    assert re.fullmatch("periscope embed: the server at fake:1 is back after [01] s", again)

    transport.description = unavailable("no server answers")
    began = time.monotonic()
    assert main([*arguments, "--wait", "0"]) == 1
    assert time.monotonic() - began < 0.5
    assert capsys.readouterr().err == "periscope embed: no server answers (1 attempt in 0.0 s)\n"
