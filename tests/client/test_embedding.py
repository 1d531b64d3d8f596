"""Items in, vectors out, through a real server: right, in order, without padding, never too many at once."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from periscope_client import (
    AsyncRetriever,
    Embeddings,
    InvalidInput,
    MissingVectors,
    Retriever,
    UnknownModel,
    _progress,
    pdf_pages,
)
from periscope_client._endpoint import Protocol
from periscope_client._transport import Tensors
from periscope_serve.server import Server

from .fake import FakeTransport, Outputs, answer
from .vectors import Floats, expected_late, same


def picture(width: int) -> Image.Image:
    return Image.new("RGB", (width, 5), (width % 256, 20, 30))


def test_info(retriever: Retriever) -> None:
    info = retriever.info()
    assert (info.model, info.fingerprint, info.recipe) == ("toy", "weights-a", "standin")
    assert (info.late_width, info.dense_width, info.accepts) == (4, 4, ("text", "image"))


def test_texts_in_order_without_padding(retriever: Retriever) -> None:
    texts = [" ".join(["word"] * (n % 7)) + str(n) for n in range(40)]
    embeddings = retriever.embed_text(texts)
    assert embeddings.names == texts
    assert embeddings.fingerprint == "weights-a"
    assert embeddings.recipe == "standin"
    assert embeddings.late is not None
    assert embeddings.dense is not None
    for text, late_TK, dense_D in zip(texts, embeddings.late, embeddings.dense, strict=True):
        assert late_TK is not None
        expected_TK = expected_late("query", text.encode(), 1 + len(text.split()))
        np.testing.assert_array_equal(late_TK, expected_TK)
        np.testing.assert_allclose(dense_D, expected_TK.mean(axis=0), atol=1e-7)
        assert late_TK.dtype == np.float32
        assert late_TK.flags.writeable
        assert late_TK.base is None, "a view would keep padding and the response in memory"


def test_role_reaches_the_server(retriever: Retriever) -> None:
    as_query, as_document, by_default = (
        retriever.embed_text(["one two"], role=role) for role in ("query", "document", None)
    )
    np.testing.assert_array_equal(as_document.late_vectors()[0], expected_late("document", b"one two", 3))
    assert not np.array_equal(as_query.late_vectors()[0], as_document.late_vectors()[0])
    assert same(by_default, as_query)


def test_every_kind_of_image(retriever: Retriever, tmp_path: Path, pdf: Path) -> None:
    image = picture(40)
    path = tmp_path / "page.png"
    image.save(path)
    file = io.BytesIO()
    image.save(file, "BMP")
    opened = Image.open(path)
    embeddings = retriever.embed_image([path, str(path), path.read_bytes(), image, opened, opened])
    first, *others = embeddings
    assert all(same(first, other) for other in others)
    assert embeddings.late_vectors()[0].shape == (5, 4)
    assert embeddings.names == [str(path), str(path), f"{path.stat().st_size} bytes", "40x5 image", *[str(path)] * 2]
    opened.close()

    pages = retriever.embed_image(pdf_pages(pdf, dpi=72))
    assert [len(late_TK) for late_TK in pages.late_vectors()] == [9, 18, 27]
    assert pages.names == [f"{pdf}, page {number}" for number in (1, 2, 3)]


@pytest.mark.filterwarnings("ignore:16x16 image. grey values:periscope_client.ContentWarning")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "F", "I", "I;16"])
def test_pil_modes(retriever: Retriever, mode: str) -> None:
    image = Image.linear_gradient("L").resize((16, 16)).convert(mode)
    # The server makes of the file what it would have made of the image.
    expected = expected_late("document", image.convert("RGB").tobytes(), 2)
    np.testing.assert_array_equal(retriever.embed_image([image]).late_vectors()[0], expected)


def test_pil_image_is_turned_like_its_file(retriever: Retriever) -> None:
    image = Image.linear_gradient("L").resize((16, 8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    turned = image.transpose(Image.Transpose.ROTATE_270)
    with Image.open(file) as opened:
        embeddings = retriever.embed_image([opened, turned])
    assert same(embeddings[0], embeddings[1])


def test_only_late_only_dense(url: str, protocol: Protocol) -> None:
    with Retriever(url, "slim", protocol=protocol) as slim, Retriever(url, "flat", protocol=protocol) as flat:
        late, dense = slim.embed_text(["a b"]), flat.embed_text(["a b"])
        with pytest.raises(UnknownModel, match="'slim' does not embed images, only texts"):
            slim.embed_image([picture(8)])
    assert late.dense is None
    assert dense.late is None
    assert dense.dense is not None
    np.testing.assert_allclose(dense.dense[0], late.late_vectors()[0].mean(axis=0), atol=1e-7)


def test_chosen_outputs(retriever: Retriever) -> None:
    both = retriever.embed_text(["a b"])
    late, dense = retriever.embed_text(["a b"], outputs=["late"]), retriever.embed_text(["a b"], outputs=["dense"])
    assert retriever.info().outputs == ("late", "dense")
    assert (late.dense, dense.late) == (None, None)
    assert same(retriever.embed_text(["a b"], outputs=["dense", "late", "dense"]), both)
    np.testing.assert_array_equal(late.late_vectors()[0], both.late_vectors()[0])
    np.testing.assert_array_equal(dense.dense_vectors(), both.dense_vectors())
    page = retriever.embed_image([picture(8)], outputs=["dense"])
    assert page.late is None
    np.testing.assert_array_equal(page.dense_vectors(), retriever.embed_image([picture(8)]).dense_vectors())


def test_outputs_that_cannot_be_had(url: str, protocol: Protocol) -> None:
    with Retriever(url, "slim", protocol=protocol) as slim:
        with pytest.raises(MissingVectors, match=r"'slim' \(recipe 'standin'\) has no dense vectors, only late ones"):
            slim.embed_text(["a"], outputs=["late", "dense"])
        with pytest.raises(MissingVectors, match="no dense vectors here"):
            slim.embed_text(["a"]).dense_vectors()
        with pytest.raises(TypeError, match=r"write outputs=\['dense'\]"):
            slim.embed_text(["a"], outputs="dense")  # type: ignore[arg-type]
        for wrong in ([], ["dense", "sparse"]):
            with pytest.raises(ValueError, match=r"'late', 'dense' or both, not \["):
                slim.embed_text(["a"], outputs=wrong)  # type: ignore[arg-type]


def test_nothing_in_nothing_out(retriever: Retriever) -> None:
    empty = retriever.embed_text([])
    assert len(empty) == 0
    assert empty.late == []
    assert empty.dense is not None
    assert empty.dense.shape == (0, 4)


def test_async_equals_sync(retriever: Retriever, url: str, protocol: Protocol) -> None:
    async def embed() -> tuple[Embeddings, Embeddings, Floats]:
        async with AsyncRetriever(url, "toy", protocol=protocol) as other:
            queries, pages = await asyncio.gather(
                other.embed_text(["a", "b c"]), other.embed_image([picture(8), picture(16)])
            )
            return queries, pages, await other.maxsim(queries, pages)

    queries, pages, scores = asyncio.run(embed())
    assert same(queries, retriever.embed_text(["a", "b c"]))
    assert same(pages, retriever.embed_image([picture(8), picture(16)]))
    np.testing.assert_array_equal(scores, retriever.maxsim(queries, pages))


def test_inside_a_running_loop_and_from_several_threads(retriever: Retriever) -> None:
    async def notebook() -> Embeddings:
        return retriever.embed_text(["a"])

    results = [asyncio.run(notebook())]
    threads = [threading.Thread(target=lambda: results.append(retriever.embed_text(["a"]))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 9
    assert all(same(results[0], result) for result in results)


def test_a_generator_is_read_only_as_fast_as_it_is_sent(url: str, protocol: Protocol) -> None:
    taken: list[float] = []

    def texts() -> Iterator[str]:
        for number in range(6):
            taken.append(time.monotonic())
            yield f"sleep: 0.{number + 2}"

    with Retriever(url, "toy", protocol=protocol, concurrency=2) as retriever:
        assert len(retriever.embed_text(texts())) == 6
    # Two at once: the third is taken only when one of the first two (0.2 s, 0.3 s) is done.
    assert taken[1] - taken[0] < 0.15
    assert taken[2] - taken[0] > 0.15
    assert taken[4] - taken[2] > 0.15


def test_concurrency_holds_over_all_calls(transport: FakeTransport) -> None:
    flying, most = 0, 0

    async def infer(model: str, inputs: Tensors, outputs: Sequence[str], request_id: str = "") -> Outputs:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.01)
        flying -= 1
        return answer()

    async def embed() -> None:
        async with AsyncRetriever("fake:1", "toy", transport=transport, concurrency=3) as retriever:
            await asyncio.gather(*(retriever.embed_text(["a"] * 5) for _ in range(4)))

    transport.infer = infer  # type: ignore[method-assign]
    asyncio.run(embed())
    assert most == 3


def test_what_a_generator_raises_comes_through(retriever: Retriever) -> None:
    def texts() -> Iterator[str]:
        yield "a"
        raise ZeroDivisionError("in the caller's own code")

    with pytest.raises(ZeroDivisionError, match="in the caller's own code"):
        retriever.embed_text(texts())
    with pytest.raises(InvalidInput, match="cannot be read"):
        retriever.embed_image(pdf_pages("missing.pdf"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "QUIET_SECONDS", 0.2)

    def shown(stderr: io.StringIO, texts: list[str], progress: bool | None) -> str:
        monkeypatch.setattr("sys.stderr", stderr)
        with Retriever(server.grpc_url, "toy") as retriever:
            retriever.embed_text(texts, progress=progress)
        return stderr.getvalue()

    long, short = ["sleep: 0.4", "sleep: 0.5", "a"], ["a", "b"]
    assert "2/2" in shown(io.StringIO(), short, True)
    assert shown(Terminal(), long, False) == ""
    assert shown(Terminal(), short, None) == "", "done before anybody waits"
    assert shown(io.StringIO(), long, None) == "", "nobody is watching"
    assert "/3" in shown(Terminal(), long, None)
