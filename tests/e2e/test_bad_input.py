"""Bad input on the running server: a clear error for the item, vectors for its neighbours."""

from __future__ import annotations

import io
import os
import re
import signal
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from e2e.exported import Exported
from e2e.pages import column, draw_page, encode, infer
from periscope_client import (
    InvalidInput,
    ItemsFailed,
    Retriever,
    ServerLost,
    ServerUnavailable,
    Timeout,
    UnknownModel,
)
from periscope_serve.server import Server


def bomb() -> bytes:
    """A PNG of a hundred bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def animation() -> bytes:
    frames = [draw_page(90, 60, seed).quantize(64) for seed in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


GOOD = encode(draw_page(120, 90))
BAD_IMAGES = {
    "truncated": (GOOD[: len(GOOD) // 2], "truncated"),
    "not an image": (b"this is no image", "not an image"),
    "zero bytes": (b"", "empty"),
    "aspect ratio over 200": (encode(Image.new("RGB", (2100, 10))), "aspect ratio of 210"),
    "decompression bomb": (bomb(), "pixels"),
}
BAD_TEXTS = {
    "empty": ("", "empty"),
    "blank": (" \n ", "empty"),
    "too long": ("word " * 5000, "above the limit of 2048"),
    "far too long": ("x" * 100_000, "limit of 65536"),
    "an image token": ("what is <|image_pad|>?", "stands for an image"),
}
# Items above the limits that the server tells are not sent to it.
UNSENT = {"decompression bomb", "far too long"}
# Nobody outside needs to know where the server's files are, or which line of it was running.
LEAKS = re.compile(r"Traceback|File \"|/(usr|home|tmp|root|opt|work)/|0x[0-9a-f]{6}|site-packages")


def assert_clear(error: BaseException, step: str, what: str) -> None:
    text = str(error)
    assert step in text
    assert what in text
    assert not LEAKS.search(text), text


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_fails_alone(retriever: Retriever, case: str) -> None:
    bad, what = BAD_IMAGES[case]
    embeddings = retriever.embed_image([GOOD, bad, GOOD], on_error="keep")
    assert set(embeddings.errors) == {1}
    assert_clear(embeddings.errors[1], "read" if case in UNSENT else "preprocess", what)
    assert embeddings.late is not None
    assert embeddings.late[1] is None
    before, after = embeddings[[0, 2]].late_vectors()
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_a_bad_text_fails_alone(retriever: Retriever, case: str) -> None:
    bad, what = BAD_TEXTS[case]
    with pytest.raises(ItemsFailed) as raised:
        retriever.embed_text(["first", bad, "last"])
    assert set(raised.value.errors) == {1}
    assert_clear(raised.value.errors[1], "read" if case in UNSENT else "preprocess", what)
    assert len(raised.value.embeddings.without_failed()) == 2


def test_a_bad_row_is_named_and_fails_its_own_request_only(triton: InferenceServerClient, first: Exported) -> None:
    with pytest.raises(InferenceServerException, match=r"preprocess: image 2: is not an image"):
        infer(triton, f"{first.name}_embed_image", {"IMAGE": column([GOOD, GOOD, b"no", GOOD])})


def test_what_other_clients_send_is_held_against_the_limits_too(triton: InferenceServerClient, first: Exported) -> None:
    with pytest.raises(InferenceServerException, match=r"preprocess: image 0: has more pixels than the limit of"):
        infer(triton, f"{first.name}_embed_image", {"IMAGE": column([bomb()])})
    with pytest.raises(InferenceServerException, match=r"preprocess: text 0: .* above the limit of 65536"):
        infer(triton, f"{first.name}_embed_text", {"TEXT": column([b"x" * 100_000])})


@pytest.mark.parametrize("size", [(1, 1), (1, 199), (13, 14)])
def test_tiny_images_have_vectors(retriever: Retriever, size: tuple[int, int]) -> None:
    late = retriever.embed_image([Image.new("RGB", size, (200, 30, 30))]).late_vectors()
    assert len(late[0]) > 4


def test_an_animation_is_its_first_frame(retriever: Retriever) -> None:
    gif = animation()
    first_frame = Image.open(io.BytesIO(gif)).convert("RGB")
    whole, still = retriever.embed_image([gif, first_frame]).late_vectors()
    np.testing.assert_allclose(whole, still, atol=1e-6)


def test_an_unknown_role_lists_the_roles(retriever: Retriever) -> None:
    with pytest.raises(ItemsFailed) as raised:
        retriever.embed_text(["text"], role="document")
    assert_clear(raised.value.errors[0], "preprocess", "['query']")
    with pytest.raises(ItemsFailed) as raised:
        retriever.embed_image([GOOD], role="query")
    assert_clear(raised.value.errors[0], "preprocess", "['document']")


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        ({"TEXT": np.array([[b"a", b"b"]], dtype=object)}, "shape"),
        ({"TEXT": np.array([[1]], dtype=np.int32)}, "data-type|datatype|type"),
        ({"IMAGE": np.array([[b"a"]], dtype=object)}, "unexpected inference input|TEXT"),
        ({"TEXT": column([b"a"] * 17)}, "batch"),
    ],
)
def test_wrong_tensors_are_refused(
    triton: InferenceServerClient, first: Exported, inputs: dict[str, NDArray[Any]], what: str
) -> None:
    with pytest.raises(InferenceServerException, match=what) as raised:
        infer(triton, f"{first.name}_embed_text", inputs)
    assert not LEAKS.search(str(raised.value))


def test_an_unknown_model_names_those_that_are_there(server: Server) -> None:
    with pytest.raises(UnknownModel, match="colqwen2"), Retriever(server.grpc_url, "colqwen3") as retriever:
        retriever.embed_text(["text"])


def test_vectors_of_two_checkpoints_do_not_mix(server: Server, retriever: Retriever, trained: Exported) -> None:
    with Retriever(server.grpc_url, trained.name) as other:
        pages = other.embed_image([GOOD])
    with pytest.raises(Exception, match="fingerprint"):
        retriever.maxsim(retriever.embed_text(["text"]), pages)


def test_a_server_that_goes_away_gives_an_error_in_bounded_time(first: Exported, tmp_path: Path) -> None:
    """Killed while hundreds of pages are on their way."""
    pages = [encode(draw_page(600, 600, seed)) for seed in range(5)] * 60
    server = Server([first.repository], grpc_port=0, http_port=0, metrics_port=0, log=tmp_path / "triton.log")
    server.start()
    try:
        with Retriever(server.grpc_url, first.name, timeout=Timeout(connect=2, request=10)) as retriever:
            retriever.embed_text(["warm"])
            killer = threading.Timer(1.0, lambda: os.kill(server.pid, signal.SIGKILL))
            killer.start()
            start = time.monotonic()
            with pytest.raises((ServerLost, ServerUnavailable)):
                retriever.embed_image(pages)
            assert time.monotonic() - start < 120
            killer.join()
    finally:
        server.stop()


def test_invalid_input_is_an_exception_of_the_client(retriever: Retriever) -> None:
    embeddings = retriever.embed_image([b"no image"], on_error="keep")
    assert isinstance(embeddings.errors[0].cause, InvalidInput)
