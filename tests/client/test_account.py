"""Every item of every call is accounted for: done, failed and why, or not sent; and `periscope embed` goes on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from periscope_client import (
    Embeddings,
    InvalidInput,
    ItemsFailed,
    NotSent,
    Retriever,
    ServerLost,
    ServerUnavailable,
)
from periscope_client._account import FEW
from periscope_client._transport import Tensors
from periscope_client.console import main

from .fake import FakeTransport, Outputs, config
from .restartable import later
from .test_rerank_contract import reranker
from .vectors import same


class Counting:
    """Answers each item with a vector of its own, until so many have been answered; then the server is gone."""

    def __init__(self, transport: FakeTransport, most: int = 10**9) -> None:
        self.transport = transport
        self.most = most
        self.sent: list[bytes] = []
        transport.reply = self

    def __call__(self, model: str, inputs: Tensors) -> Outputs:
        (content,) = (inputs[name][0, 0] for name in ("TEXT", "IMAGE") if name in inputs)
        if content == b"refused":
            raise InvalidInput("too long", "preprocess")
        if len(self.sent) >= self.most:
            self.transport.description = ServerUnavailable("gone")
            raise ServerUnavailable("gone")
        self.sent.append(content)
        value = float(len(content) + sum(content))
        return {"late": np.full((1, 1, 2), value, np.float32), "late_mask": np.ones((1, 1), np.int32)}

    def again(self) -> None:
        self.transport.description = config()
        self.sent.clear()
        self.most = 10**9


def test_one_line_for_each_cause(transport: FakeTransport) -> None:
    Counting(transport)
    texts = ["a", "refused", "b", "refused", "refused", "c", "refused", "refused"]
    with Retriever("fake:1", "toy", transport=transport) as retriever, pytest.raises(ItemsFailed) as caught:
        retriever.embed_text(texts)
    assert str(caught.value) == (
        "5 of 8 items failed:\n"
        "  item 1 ('refused'), item 3 ('refused'), item 4 ('refused') and 2 more (5 items): preprocess: too long"
    )


@pytest.mark.parametrize("iterator", [False, True])
def test_what_was_not_sent(transport: FakeTransport, iterator: bool) -> None:
    Counting(transport, most=12)
    texts = [f"text {number}" for number in range(480)]
    taken = []

    def read() -> Iterator[str]:
        for text in texts:
            taken.append(text)
            yield text

    with (
        Retriever("fake:1", "toy", transport=transport, wait=0, concurrency=4) as retriever,
        pytest.raises(ServerLost) as caught,
    ):
        retriever.embed_text(read() if iterator else texts)
    lost = caught.value
    done = lost.embeddings.without_failed()
    failed = [place for place, error in lost.errors.items() if isinstance(error.cause, ServerUnavailable)]
    unsent = [place for place, error in lost.errors.items() if isinstance(error.cause, NotSent)]
    assert done.names == texts[:12]
    assert failed == list(range(12, 12 + len(failed)))
    assert len(failed) <= 4
    first = 12 + len(failed)
    if iterator:
        assert unsent == [first]
        assert taken == texts[: first + 1], "read to the first that was not sent, and no further"
        said = "not sent, nor was any item after it: the server was lost before its turn"
        assert str(lost).endswith(f"\n  item {first} ('text {first}'): {said}")
    else:
        assert unsent == list(range(first, 480))
        said = "not sent: the server was lost before its turn"
        assert str(lost).endswith(
            f"\n  item {first} ('text {first}') to item 479 ('text 479') ({480 - first} items): {said}"
        )
    assert f"{len(failed)} of {len(lost.embeddings)} items failed, {len(unsent)} were not sent:" in str(lost)
    assert lost.message == "gone (1 attempt in 0.0 s)"


def embed(output: Path, *arguments: object, options: Sequence[str] = ()) -> int:
    server = ["--url", "fake:1", "--model", "toy", "--wait", "0"]
    return main(["embed", *map(str, arguments), "--output", str(output), *options, *server])


@pytest.mark.usefixtures("reached_by_commands")
def test_a_run_that_lost_its_server_goes_on(
    transport: FakeTransport,
    pdf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    images = []
    for number in range(30):
        images.append(tmp_path / f"{number}.png")
        images[-1].write_bytes(b"%d" % number)
    files = [*images[:10], pdf, images[3], *images[10:]]
    whole, output = tmp_path / "whole.npz", tmp_path / "vectors.npz"
    counting = Counting(transport)
    assert embed(whole, *files) == 0
    names = Embeddings.load(whole).names
    assert len(names) == 34

    counting.again()
    counting.most = 12
    assert embed(output, *files) == 1
    out, err = capsys.readouterr()
    assert "vectors.npz: 12 items" in out
    lines = err.splitlines()
    kept = Embeddings.load(output)
    with np.load(output) as archive:
        failed = archive["failed"].tolist()
        assert archive["reasons"].tolist()[0].startswith("gone")
        assert archive["reasons"].tolist()[-1].startswith("not sent")
    assert sorted(kept.names + failed) == sorted(names[: 12 + len(failed)])
    in_order = iter(names)
    assert all(name in in_order for name in kept.names)
    assert re.fullmatch(rf"periscope embed: {re.escape(failed[0])}(,? .* \(\d+ items\))?: gone .*", lines[0])
    assert re.fullmatch(r"periscope embed: .*: not sent, nor was any item after it: the server was lost .*", lines[-2])
    assert lines[-1] == f"periscope embed: {output} is incomplete. The same command with --resume goes on from there"
    assert len(lines) <= 2 + FEW
    assert f"{output} is incomplete: it lacks {failed[0]} and {len(failed) - 1} more at least (" in caplog.text, (
        "whoever loads it is told"
    )

    # Not replaced by accident, nor mixed with what was made in another way.
    before = output.read_bytes()
    counting.again()
    for options, message in (
        ([], r"is incomplete: it lacks .* \(gone .*\)\. Go on with --resume, or remove it"),
        (["--resume", "--dpi", "99"], "another dpi: 144.0 before, 99.0 now"),
        (["--resume", "--role", "query"], "another role: 'document' before, 'query' now"),
    ):
        assert embed(output, *files, options=options) == 1
        assert re.search(message, capsys.readouterr().err)
    transport.description = config("g")
    assert embed(output, *files, options=["--resume"]) == 1
    assert "(fingerprint f), the retriever 'toy' gives those of 'r' (fingerprint g)" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert counting.sent == []

    # Gone again, then to its end: nothing twice, everything in the order of the command.
    for most, status in ((5, 1), (10**9, 0)):
        counting.again()
        counting.most = most
        held = len(Embeddings.load(output))
        assert embed(output, *files, options=["--resume"]) == status
        assert len(counting.sent) == min(most, 34 - held)
    assert same(Embeddings.load(output), Embeddings.load(whole))
    assert Embeddings.load(output).names == names
    counting.again()
    assert embed(output, *files, options=["--resume"]) == 0
    assert counting.sent == [], "there was nothing to do"
    assert embed(output, images[0]) == 0, "a file that is complete is replaced, as ever"
    assert Embeddings.load(output).names == names[:1]


@pytest.mark.usefixtures("reached_by_commands")
def test_what_is_refused_is_recorded(
    transport: FakeTransport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be refused again: the file is as complete as it can be."""
    Counting(transport)
    output = tmp_path / "v.npz"
    assert embed(output, "--text", "a", "refused", "b") == 1
    assert capsys.readouterr().err == "periscope embed: 'refused': preprocess: too long\n"
    with np.load(output) as archive:
        assert (archive["failed"].tolist(), archive["retry"].tolist()) == (["refused"], [False])
    assert embed(output, "--text", "a") == 0
    assert embed(output, "--text", "a", "b", "a", options=["--resume"]) == 0
    assert Embeddings.load(output).names == ["a", "b", "a"]


@pytest.mark.usefixtures("reached_by_commands")
def test_resume_of_other_files(transport: FakeTransport, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Counting(transport)
    output = tmp_path / "v.npz"
    assert embed(output, "--text", "a", options=["--resume"]) == 0, "the first run of a command that is run again"
    Embeddings.load(output).save(output)
    assert embed(output, "--text", "a", options=["--resume"]) == 1
    assert "does not say how its vectors were made" in capsys.readouterr().err
    output.write_text("?")
    assert embed(output, "--text", "a", options=["--resume"]) == 1
    assert "is not a file of vectors" in capsys.readouterr().err
    assert embed(output, "--text", "a") == 1
    assert "is there, and no file of vectors: it is not replaced" in capsys.readouterr().err
    assert output.read_text() == "?"
    for broken in (b"", b"PK\3\4 cut"):
        output.write_bytes(broken)
        assert embed(output, "--text", "a") == 0


@pytest.mark.usefixtures("reached_by_commands")
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("away", [False, True])
def test_a_signal_keeps_what_has_arrived(
    transport: FakeTransport,
    signum: int,
    status: int,
    away: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While answers are slow, and while the server is away and waited for."""
    monkeypatch.setattr(signal, "getsignal", lambda signum: signal.default_int_handler)
    counting, output = Counting(transport), tmp_path / "v.npz"
    infer = transport.infer

    async def slow(model: str, inputs: Tensors, *others: Any) -> Outputs:
        if len(counting.sent) >= 3:
            if away:
                transport.description = ServerUnavailable("gone")
                raise ServerUnavailable("gone")
            await asyncio.sleep(20)
        return await infer(model, inputs, *others)

    monkeypatch.setattr(transport, "infer", slow)
    files = []
    for number in range(100):
        files.append(tmp_path / f"{number}.png")
        files[-1].write_bytes(b"%d" % number)
    arguments = [
        "embed",
        *map(str, files),
        "--output",
        str(output),
        "--url",
        "fake:1",
        "--model",
        "toy",
        "--wait",
        "60",
    ]
    sent_at = 0.0

    def end() -> None:
        nonlocal sent_at
        while len(counting.sent) < 3:
            time.sleep(0.01)
        time.sleep(0.2)
        sent_at = time.monotonic()
        os.kill(os.getpid(), signum)

    with later(0, end):
        assert main(arguments) == status
    assert time.monotonic() - sent_at < 5
    err = capsys.readouterr().err
    assert "(16 items): its answer was not waited for: the call was ended" in err
    assert f"{files[19]}: not sent, nor was any item after it: the call was ended before its turn" in err
    assert "is incomplete. The same command with --resume goes on" in err
    kept = Embeddings.load(output).names
    assert len(kept) == 3
    assert set(kept) <= {str(file) for file in files[:19]}


@pytest.mark.usefixtures("reached_by_commands")
def test_a_ranking_that_ended_early(transport: FakeTransport, capsys: pytest.CaptureFixture[str]) -> None:
    transport.others["toy_rerank"] = reranker()
    answered = 0

    def reply(model: str, inputs: Tensors) -> Outputs:
        nonlocal answered
        if (answered := answered + 1) > 3:
            transport.description = ServerUnavailable("gone")
            raise ServerUnavailable("gone")
        count = len(inputs["TEXT"])
        return {"score": np.full((count, 1), answered, np.float32), "status": np.array([b""] * count, np.object_)}

    transport.reply = reply
    texts = [f"text {number}" for number in range(60)]
    with (
        Retriever("fake:1", "toy", transport=transport, wait=0, concurrency=1) as retriever,
        pytest.raises(ServerUnavailable) as caught,
    ):
        retriever.rerank("q", texts)
    ranking = caught.value.ranking
    assert ranking is not None
    size = len(ranking.order) // 3
    assert sorted(ranking.order) == list(range(3 * size))
    kinds = [type(error.cause) for error in ranking.errors.values()]
    assert list(ranking.errors) == list(range(3 * size, 60))
    assert kinds == [ServerUnavailable] * size + [NotSent] * (60 - 4 * size)
    assert ranking.names == texts

    answered, transport.description = 0, config()
    many = [argument for text in texts for argument in ("--text", text)]
    assert main(["rerank", "q", *many, "--url", "fake:1", "--model", "toy", "--wait", "0", "--top-k", "2"]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert "gone" in err
    assert re.search(r"the ranking is incomplete: nothing after text \d+ was sent", err)
