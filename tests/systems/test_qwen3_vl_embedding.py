"""Qwen3-VL-Embedding through the running server: every kind of item gets the released code's vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from e2e.exported import Exported
from e2e.pages import QUERIES, column, draw_page, encode, infer
from periscope_client import Retriever
from periscope_serve.server import Server
from periscope_testing.qwen3_vl.reference import EmbeddingReference
from periscope_testing.reference import Item

NAME = "qwen3_embedding"
TOLERANCE = 1e-4

# Width, height: square, wide, tall, smaller than a visual token, above the pixel limit, already a multiple of 32.
SIZES = ((100, 100), (500, 90), (70, 620), (20, 17), (1500, 1400), (320, 192))
# (width, height), frames: a single one, an odd number, small ones that grow.
VIDEOS = (((300, 200), 1), ((640, 360), 3), ((50, 40), 6))


def video(size: tuple[int, int], frames: int) -> list[Image.Image]:
    return [draw_page(*size, seed) for seed in range(frames)]


@pytest.fixture(scope="module")
def reference(systems: dict[str, Exported]) -> EmbeddingReference:
    return EmbeddingReference(systems[NAME].checkpoint)


@pytest.fixture(scope="module")
def retriever(server: Server) -> Iterator[Retriever]:
    with Retriever(server.grpc_url, NAME) as connected:
        yield connected


def assert_close(found: Any, wanted: list[Any]) -> None:
    np.testing.assert_allclose(found.dense, np.stack(wanted), rtol=0, atol=TOLERANCE)


def test_texts(retriever: Retriever, reference: EmbeddingReference) -> None:
    wanted = [reference.embed(Item(text=text)).dense for text in QUERIES]
    assert_close(retriever.embed_text(QUERIES), wanted)
    assert_close(retriever.embed_text(QUERIES, role="document"), wanted)


@pytest.mark.parametrize("instruction", ["Find the page", "Find the page.", " Which page is it? ", "探して。", "a"])
def test_instructions(retriever: Retriever, reference: EmbeddingReference, instruction: str) -> None:
    """Stripped, and ended with a full stop where there is no punctuation of any script."""
    found = retriever.embed_text(QUERIES[:1], instruction=instruction)
    assert_close(found, [reference.embed(Item(text=QUERIES[0], instruction=instruction)).dense])


def test_a_task_is_its_instruction(retriever: Retriever, reference: EmbeddingReference) -> None:
    wanted = reference.embed(
        Item(text="energy", instruction="Retrieve images or text relevant to the user's query.")
    ).dense
    assert_close(retriever.embed_text(["energy"], task="retrieval"), [wanted])


def test_pages(retriever: Retriever, reference: EmbeddingReference) -> None:
    pages = [draw_page(*size, seed) for seed, size in enumerate(SIZES)]
    found = retriever.embed_image([encode(page) for page in pages])
    assert_close(found, [reference.embed(Item(image=page)).dense for page in pages])


def test_transparent_pages(retriever: Retriever, reference: EmbeddingReference) -> None:
    page = draw_page(130, 120)
    page.putalpha(Image.linear_gradient("L").resize(page.size))
    assert_close(retriever.embed_image([encode(page)]), [reference.embed(Item(image=page)).dense])


def test_pages_with_texts(retriever: Retriever, reference: EmbeddingReference) -> None:
    """An instruction too: a query may be a page with a question."""
    page = draw_page(200, 150)
    for instruction in (None, "Find the answer"):
        found = retriever.embed_image([encode(page)], ["Whose is it?"], role="query", instruction=instruction)
        assert_close(found, [reference.embed(Item("Whose is it?", page, instruction=instruction)).dense])


@pytest.mark.parametrize(("size", "frames"), VIDEOS)
def test_videos(retriever: Retriever, reference: EmbeddingReference, size: tuple[int, int], frames: int) -> None:
    shots = video(size, frames)
    found = retriever.embed_video([[encode(shot) for shot in shots]])
    assert_close(found, [reference.embed(Item(video=tuple(shots))).dense])


def test_videos_with_texts(retriever: Retriever, reference: EmbeddingReference) -> None:
    shots = video((320, 180), 4)
    found = retriever.embed_video([[encode(shot) for shot in shots]], ["growth by month"])
    assert_close(found, [reference.embed(Item(text="growth by month", video=tuple(shots))).dense])


def test_fewer_dimensions(retriever: Retriever, reference: EmbeddingReference) -> None:
    """Cut and normalised again, on the server."""
    page = draw_page(100, 100)
    for dimensions in (64, 100, 192):
        for found, wanted in (
            (
                retriever.embed_text(["x"], dimensions=dimensions),
                reference.embed(Item("x", dimensions=dimensions)).dense,
            ),
            (
                retriever.embed_image([encode(page)], dimensions=dimensions),
                reference.embed(Item(image=page, dimensions=dimensions)).dense,
            ),
        ):
            assert found.dense is not None
            assert found.dense.shape == (1, dimensions)
            assert_close(found, [wanted])
            assert abs(float(np.linalg.norm(found.dense)) - 1) < 1e-6


@pytest.mark.parametrize("dimensions", [0, 63, 193])
def test_dimensions_that_there_are_not(triton: InferenceServerClient, dimensions: int) -> None:
    inputs = {"TEXT": column([b"x"]), "DIMENSIONS": np.array([[dimensions]], np.int32)}
    with pytest.raises(InferenceServerException, match=f"asks for {dimensions} dimensions. Ask for 64 to 192"):
        infer(triton, f"{NAME}_embed_text", inputs)


def test_a_row_of_a_batch_equals_the_single_row(triton: InferenceServerClient) -> None:
    """Different sizes, with a text and without, in one request: each row is padded to the largest."""
    pages = [encode(draw_page(*size)) for size in ((100, 100), (500, 90))]
    notes = [b"", b"a note"]
    model = f"{NAME}_embed_image"
    together = infer(triton, model, {"IMAGE": column(pages), "TEXT": column(notes)})["dense"]
    for page, note, row in zip(pages, notes, together, strict=True):
        inputs = {"IMAGE": column([page]), **({"TEXT": column([note])} if note else {})}
        np.testing.assert_allclose(infer(triton, model, inputs)["dense"][0], row, rtol=0, atol=1e-5)
    texts = [query.encode() for query in QUERIES]
    together = infer(triton, f"{NAME}_embed_text", {"TEXT": column(texts)})["dense"]
    alone = [infer(triton, f"{NAME}_embed_text", {"TEXT": column([text])})["dense"][0] for text in texts]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_the_tolerance_means_something(retriever: Retriever, reference: EmbeddingReference) -> None:
    """Another instruction, another letter, other seconds, other pixels: all far outside of it."""
    shots = video((320, 180), 4)
    page = draw_page(200, 150)
    found = [retriever.embed_text(["energy"]), retriever.embed_image([encode(page)])]
    found.append(retriever.embed_video([[encode(shot) for shot in shots]]))
    others = [
        reference.embed(Item("energy", instruction="Represent the text.")).dense,
        reference.embed(Item(image=page.resize((201, 150)))).dense,
        reference.embed(Item(video=tuple(shots[::-1]))).dense,
    ]
    for one, other in zip(found, others, strict=True):
        assert one.dense is not None
        assert np.abs(one.dense[0] - other).max() > 10 * TOLERANCE
