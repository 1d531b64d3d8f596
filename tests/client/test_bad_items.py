"""A bad item fails alone, is named, and says what to do; the others get their vectors."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from periscope_client import (
    AsyncRetriever,
    InvalidInput,
    ItemError,
    ItemsFailed,
    RequestError,
    Retriever,
    ServerFault,
    ServerLost,
    ServerUnavailable,
    UnknownModel,
    UnusableRetriever,
)
from periscope_client._endpoint import Protocol
from periscope_serve.server import Server

from .fake import FakeTransport
from .vectors import embeddings, same


def test_the_others_get_their_vectors(retriever: Retriever) -> None:
    texts = ["good", "refuse: too long. Send less.", "fault", "also good", "refuse: too long. Send less."]
    with pytest.raises(ItemsFailed) as caught:
        retriever.embed_text(texts)
    failed = caught.value
    assert sorted(failed.errors) == [1, 2, 4]
    assert failed.errors[1].index == 1
    assert failed.errors[1].step == "preprocess"
    assert failed.errors[1].message == "too long. Send less."
    assert isinstance(failed.errors[1].cause, InvalidInput)
    assert isinstance(failed.errors[2].cause, ServerFault)
    assert str(failed) == (
        "3 of 5 items failed:\n"
        "  item 1 ('refuse: too long. Send less.'), item 4 ('refuse: too long. Send less.'): "
        "preprocess: too long. Send less.\n"
        "  item 2 ('fault'): the graph fell over (the server's log says more)"
    )
    partial = failed.embeddings
    assert partial.late is not None
    assert partial.dense is not None
    assert [late_TK is None for late_TK in partial.late] == [False, True, True, False, True]
    assert np.isnan(partial.dense).any(axis=1).tolist() == [False, True, True, False, True]
    assert same(partial.without_failed(), retriever.embed_text(["good", "also good"]))


def test_keep(retriever: Retriever) -> None:
    kept = retriever.embed_text(["refuse: no", "good"], on_error="keep")
    assert list(kept.errors) == [0]
    assert str(kept.errors[0]) == "item 0 ('refuse: no'): preprocess: no"
    assert len(kept) == 2


def test_wrong_role_passes_the_servers_words(retriever: Retriever) -> None:
    with pytest.raises(ItemsFailed, match="preprocess: role 'reader' is unknown"):
        retriever.embed_text(["a"], role="reader")


def test_bad_images(retriever: Retriever, tmp_path: Path, pdf: Path) -> None:
    good, truncated, no_image = tmp_path / "good.png", tmp_path / "truncated.png", tmp_path / "no image.png"
    Image.new("RGB", (64, 64)).save(good)
    truncated.write_bytes(good.read_bytes()[:60])
    no_image.write_text("not an image")
    broken = Image.open(truncated)
    items = [good, tmp_path / "missing.png", truncated, no_image, b"", pdf, tmp_path, 7, "nul\0byte", broken, good]
    kept = retriever.embed_image(items, on_error="keep")  # type: ignore[arg-type]
    broken.close()
    messages = {index: str(error) for index, error in kept.errors.items()}
    assert sorted(messages) == list(range(1, 10))
    assert f"item 1 ({tmp_path / 'missing.png'}): read: the file cannot be read (No such file or dir" in messages[1]
    for index in (2, 3, 4):
        assert "preprocess: cannot be decoded" in messages[index]
        assert "Send a PNG, JPEG, WebP, GIF or TIFF file." in messages[index]
    assert "item 4 (0 bytes)" in messages[4]
    assert "read: this is a PDF, which has pages: embed periscope_client.pdf_pages(path)" in messages[5]
    assert "Is a directory" in messages[6]
    assert "item 7 (int): read: an image is a path, bytes or a PIL image, not int" in messages[7]
    assert "read: the file cannot be read (embedded null byte)" in messages[8]
    assert "read: the image cannot be decoded (image file is truncated" in messages[9]
    assert same(kept[0], kept[10])


def test_unreadable_file(retriever: Retriever, tmp_path: Path) -> None:
    path = tmp_path / "loop.png"
    path.symlink_to(path)
    kept = retriever.embed_image([path], on_error="keep")
    assert os.strerror(40) in str(kept.errors[0])


def test_bad_texts(retriever: Retriever) -> None:
    kept = retriever.embed_text(["a", None, "\ud800", b"bytes"], on_error="keep")  # type: ignore[list-item]
    assert [error.step for error in kept.errors.values()] == ["read"] * 3
    assert "a text is a str, not NoneType" in str(kept.errors[1])
    assert "not valid Unicode" in str(kept.errors[2])


def test_everything_failed(retriever: Retriever) -> None:
    kept = retriever.embed_text(["fault", "fault"], on_error="keep")
    assert kept.late == [None, None]
    assert kept.dense is not None
    assert kept.dense.shape == (2, 4)
    assert len(kept.without_failed()) == 0


def test_misuse(retriever: Retriever) -> None:
    with pytest.raises(TypeError, match=r"embed_text\(\[text\]\)"):
        retriever.embed_text("one string is a collection of letters")
    with pytest.raises(TypeError, match=r"embed_image\(\[image\]\)"):
        retriever.embed_image(Path("page.png"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_error is 'raise' or 'keep', not 'ignore'"):
        retriever.embed_text(["a"], on_error="ignore")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "smoke"}, "protocol is 'grpc' or 'http'"),
        ({"url": "http://localhost:8000", "protocol": "grpc"}, "contradicts 'http://localhost:8000'"),
        ({"url": "localhost"}, "give HOST:PORT, or a URL"),
        ({"concurrency": 0}, "concurrency is at least 1"),
        ({"retries": -1}, "retries at least 0"),
        ({"wait": -1}, "wait is a number of seconds"),
        ({"wait": float("nan")}, "wait is a number of seconds"),
        ({"timeout": 0}, "positive"),
    ],
)
def test_wrong_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Retriever(**{"url": "localhost:8001", "model": "toy", **options})  # type: ignore[arg-type]


def test_unknown_retriever_names_those_there_are(url: str, protocol: Protocol) -> None:
    with (
        pytest.raises(
            UnknownModel,
            match=r"no retriever 'colqwen9'\. "
            r"It has 'bare', 'flat', 'judge', 'rich', 'slim', 'split', 'toy', 'unmapped', 'unmasked'\. Correct",
        ),
        Retriever(url, "colqwen9", protocol=protocol),
    ):
        pass  # pragma: no cover
    lazily = Retriever(url, "colqwen9", protocol=protocol)
    with pytest.raises(UnknownModel):
        lazily.embed_text(["a"])
    lazily.close()


def test_closed(url: str, protocol: Protocol) -> None:
    retriever = Retriever(url, "toy", protocol=protocol)
    retriever.close()
    retriever.close()
    with pytest.raises(UnusableRetriever, match="closed"):
        retriever.embed_text(["a"])


def test_closed_async(transport: FakeTransport) -> None:
    async def use_after_close() -> None:
        async with AsyncRetriever("fake:1", "toy", transport=transport) as retriever:
            await retriever.embed_text(["a"])
        assert transport.closed
        with pytest.raises(UnusableRetriever, match="closed"):
            await retriever.embed_text(["a"])

    asyncio.run(use_after_close())


def test_closing_ends_what_other_threads_wait_for(server: Server) -> None:
    retriever = Retriever(server.grpc_url, "toy")
    outcome: list[BaseException] = []

    def wait() -> None:
        try:
            retriever.embed_text(["sleep: 1"])
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    retriever.close()
    thread.join(5)
    assert isinstance(outcome[0], UnusableRetriever)


def test_forgotten_retrievers_end_quietly(server: Server) -> None:
    """Neither the interpreter's end nor the garbage collector, in whatever thread it runs, waits for a lost loop."""
    program = (
        "import gc, sys\n"
        "from periscope_client import Retriever\n"
        "dropped, kept = (Retriever(sys.argv[1], 'toy') for _ in range(2))\n"
        "assert len(dropped.embed_text(['a'])) == len(kept.embed_text(['a'])) == 1\n"
        "loop = dropped._loop._loop\n"
        "box = [dropped]; del dropped\n"
        "loop.call_soon_threadsafe(box.clear)\n"
        "while box or loop.is_running(): pass\n"
        "print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, server.grpc_url], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_errors_survive_pickling() -> None:
    def copy(error: Exception) -> Exception:
        duplicate: Exception = pickle.loads(pickle.dumps(error))
        assert type(duplicate) is type(error)
        assert str(duplicate) == str(error)
        return duplicate

    item = ItemError(3, "a.png", ServerUnavailable("gone", "step"))
    copy(RequestError("message"))
    copy(item)
    for kind in (ItemsFailed, ServerLost):
        failed = copy(kind({3: item}, embeddings(1, 2)))
        assert isinstance(failed, ItemsFailed)
        assert failed.errors[3].step == "step"
