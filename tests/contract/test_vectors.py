"""Every system with vectors: those that are served are the published ones, whatever is beside an item."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from contract.items import INSTRUCTIONS, KINDS, LARGE, PAGES, kinds
from contract.served import Served, column, distance
from contract.tolerances import LENGTH, PARITY, ROW, SCORE
from e2e.pages import draw_page
from periscope_client import Retriever
from periscope_serve.lint import lint
from periscope_testing.reference import Item


def test_every_kind_of_item_has_the_published_vectors(embedder: Served) -> None:
    for items in kinds(embedder.recipe):
        for item in items:
            assert distance(embedder.embed(item), embedder.reference.embed(item)) <= PARITY, item


def test_instructions(embedder: Served) -> None:
    """Other ones than the system's, each prepared as published."""
    items = [Item("revenue by region", instruction=instruction) for instruction in INSTRUCTIONS]
    items.append(Item(image=PAGES[0], instruction=INSTRUCTIONS[0]))
    for item in items:
        assert distance(embedder.embed(item), embedder.reference.embed(item)) <= PARITY, item


def test_tasks(embedder: Served) -> None:
    """Each by its name, in each role: its instruction, its adapter, its prompts."""
    preparation = embedder.recipe.preparation
    for name, task in preparation.tasks.items():
        for role, prompts in preparation.prompts.items():
            items = [Item("revenue by region", role=role, task=name)] if "text" in prompts else []
            items += [Item(image=PAGES[1], role=role, task=name)] if "image" in prompts else []
            for item in items:
                wanted = embedder.reference.embed(replace(item, instruction=task.instruction_in(role)))
                assert distance(embedder.embed(item), wanted) <= PARITY, item


def test_tasks_share_a_batch(embedder: Served) -> None:
    """Rows of different adapters in one request."""
    preparation = embedder.recipe.preparation
    for items in kinds(embedder.recipe):
        rows = [replace(item, task=name) for name, item in zip(preparation.tasks, items, strict=False)]
        for row, item in zip(embedder.rows(rows), rows, strict=True):
            assert distance(row, embedder.rows([item])[0]) <= ROW, item
            assert distance(row, embedder.reference.embed(item)) <= PARITY, item


def test_fewer_dimensions(embedder: Served) -> None:
    """Cut and normalised again, on the server."""
    dense = embedder.recipe.outputs.dense
    assert dense is not None
    least = dense.dimensions
    assert least is not None
    (width,) = np.asarray(embedder.embed(Item("x")).dense).shape
    for dimensions in (least, (least + width) // 2, width):
        for item in (Item("x", dimensions=dimensions), Item(image=PAGES[0], role="document", dimensions=dimensions)):
            found = embedder.embed(item)
            assert np.asarray(found.dense).shape == (dimensions,)
            assert distance(found, embedder.reference.embed(item)) <= PARITY


def test_dimensions_that_there_are_not(embedder: Served) -> None:
    dense = embedder.recipe.outputs.dense
    assert dense is not None
    least = dense.dimensions
    assert least is not None
    (width,) = np.asarray(embedder.embed(Item("x")).dense).shape
    for dimensions in (0, least - 1, width + 1):
        inputs = {"TEXT": column([b"x"]), "DIMENSIONS": np.array([[dimensions]], np.int32)}
        with pytest.raises(InferenceServerException, match=f"asks for {dimensions} .*Ask for {least} to {width}"):
            embedder.step("embed_text", inputs)


def test_both_protocols_give_the_same(embedder: Served) -> None:
    items = [Item("revenue"), Item(image=PAGES[0], role="document")]
    with Retriever(embedder.server.url("http"), embedder.system.name, protocol="http") as retriever:
        over_http = replace(embedder, retriever=retriever)
        for item in items:
            assert distance(over_http.embed(item), embedder.embed(item)) <= SCORE


def test_scores_are_the_published_ones(embedder: Served) -> None:
    """MaxSim where there are late vectors, the cosine of dense ones otherwise."""
    query, pages = Item(KINDS["text"][0].text), [replace(item, role="document") for item in KINDS["image"][:3]]
    queries, documents = embedder.embeddings([query]), embedder.embeddings(pages)
    if "late" in embedder.outputs:
        (found,) = embedder.retriever.maxsim(queries, documents)
    else:
        (found,) = queries.dense_vectors() @ documents.dense_vectors().T
    np.testing.assert_allclose(found, embedder.reference.scores(query, pages), rtol=0, atol=PARITY)


def test_vectors_have_length_one(embedder: Served) -> None:
    for items in kinds(embedder.recipe):
        for vectors in embedder.embed(items[0]):
            if vectors is not None:
                np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=0, atol=LENGTH)


def test_a_row_of_a_batch_equals_the_single_row(embedder: Served) -> None:
    """Different sizes and lengths in one request: each row is padded to the largest, and still the same."""
    for items in kinds(embedder.recipe):
        batch = getattr(embedder.recipe.batch, {"image": "page"}.get(embedder.tensors([items[0]])[0], "text"))
        frames = items[0].video and len(items[0].video)
        rows = [item for item in items if not frames or len(item.video or ()) == frames][:batch]
        together = embedder.rows(rows)
        for row, item in zip(together, rows, strict=True):
            assert distance(row, embedder.rows([item])[0]) <= ROW, item


def test_padding_is_zero_and_marked(embedder: Served) -> None:
    padded = 0
    for items in kinds(embedder.recipe):
        path, inputs = embedder.tensors(list(items[: 1 if items[0].video else 2]))
        outputs = embedder.step(f"embed_{path}", inputs)
        padding = outputs["late"][outputs["late_mask"] == 0]
        assert not padding.any()
        padded += len(padding)
    assert padded


def test_order_and_neighbours_do_not_matter(embedder: Served) -> None:
    """Many requests in flight, joined by the server as they come: an item's vectors are its own."""
    for items in kinds(embedder.recipe):
        if items[0].video is None:
            many = [item for _ in range(2) for item in items]
            forward, backward = (embedder.vectors(embedder.embeddings(order)) for order in (many, many[::-1]))
            for one, other in zip(forward, backward[::-1], strict=True):
                assert distance(one, other) <= ROW


def test_a_broken_item_fails_alone(embedder: Served) -> None:
    good = KINDS["text"][0].text or ""
    found = embedder.retriever.embed_text([good, " \n ", good], on_error="keep")
    assert set(found.errors) == {1}
    assert "preprocess: is empty" in str(found.errors[1])
    page = draw_page(120, 90)
    pages = embedder.retriever.embed_image([page, b"no image", page], on_error="keep")
    assert set(pages.errors) == {1}
    assert "preprocess: is not an image" in str(pages.errors[1])
    for kept in (found, pages):
        first, last = embedder.vectors(kept[[0, 2]])
        assert distance(first, last) <= SCORE


def test_patches_are_exactly_the_published_pixels(embedder: Served) -> None:
    for page in (*PAGES, *LARGE, *(draw_page(90, 60).convert(mode) for mode in ("L", "P", "1"))):
        assert_pixels(embedder, page)


def test_transparent_pages(embedder: Served) -> None:
    """Over white."""
    assert_pixels(embedder, transparent("RGB"))


def test_transparent_grey_pages(embedder: Served) -> None:
    assert_pixels(embedder, transparent("L"))


def transparent(mode: str) -> Image.Image:
    page = draw_page(90, 60).convert(mode)
    page.putalpha(Image.linear_gradient("L").resize(page.size))
    return page


def assert_pixels(served: Served, page: Image.Image) -> None:
    outputs = served.prepared(Item(image=page, role="document"))
    patches = outputs["patches"][0].reshape(-1, outputs["patches"].shape[-1])
    real = outputs["patch_segments"][0].ravel() >= 0 if "patch_segments" in outputs else np.ones(len(patches), bool)
    np.testing.assert_array_equal(patches[real], served.reference.pixels(page))
    assert not patches[~real].any()


def test_tokens_are_the_published_ones(embedder: Served) -> None:
    """With padding, which is the token 0, on the right."""
    for items in kinds(embedder.recipe):
        for item in items:
            outputs = embedder.prepared(item)
            if "input_ids" in outputs:
                wanted = embedder.reference.ids(item)
                np.testing.assert_array_equal(outputs["input_ids"][0][: len(wanted)], wanted)
                assert not outputs["input_ids"][0][len(wanted) :].any()


def test_a_text_above_the_limit_is_refused(embedder: Served) -> None:
    preparation = embedder.recipe.preparation
    limit = preparation.limits.text_tokens_of(preparation.roles(("text",))[0])
    found = embedder.retriever.embed_text(["x " * (limit + 1)], on_error="keep")
    assert f"tokens, above the limit of {limit}" in str(found.errors[0])


def test_what_was_exported_has_no_finding(served: Served) -> None:
    assert lint([served.repository]) == []
