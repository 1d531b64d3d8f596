"""Changes that the name of a task makes: its instruction, its adapter, its prompts; by role where it says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from periscope_runtime.asked import Asked
from periscope_runtime.collate import collate
from periscope_runtime.errors import PreparationError
from periscope_runtime.item import Item
from periscope_runtime.prepare import Preparer
from runtime.test_contents import PAGE, build, written

__all__ = ["build"]

SYMMETRIC = {"document": "query"}
# As jina-embeddings-v4: an adapter a task, and texts to match have the prompt of queries in both roles.
PAGES: dict[str, Any] = {
    "prompts": {
        "query": {"text": "Query: {text}", "image": "<|image_pad|>."},
        "document": {"text": "Passage: {text}", "image": "<|image_pad|>."},
    },
    "tasks": {
        "retrieval": {"adapter": "retrieval"},
        "text-matching": {"adapter": "text-matching", "prompts": SYMMETRIC},
        "code": {"adapter": "code"},
    },
    "task": "retrieval",
    **dict.fromkeys(("pair", "video", "instruction")),
    "pooling": "mean",
}
# As jina-embeddings-v3: an adapter and an instruction a role, or one adapter for both.
TEXTS: dict[str, Any] = {
    "prompts": {role: {"text": "{instruction}{text}"} for role in ("query", "document")},
    "instruction": {"default": ""},
    "tasks": {
        "retrieval": {
            "instruction": {"query": "Represent the query: ", "document": "Represent the document: "},
            "adapter": {"query": "retrieval.query", "document": "retrieval.passage"},
        },
        "separation": {"adapter": "separation"},
    },
    "task": "retrieval",
    **dict.fromkeys(("pair", "video", "image", "image_token")),
    "positions": "sequential",
    "pooling": "mean",
}


@pytest.fixture(scope="module")
def pages(build: Callable[..., Preparer]) -> Preparer:
    return build(**PAGES)


@pytest.fixture(scope="module")
def texts(build: Callable[..., Preparer]) -> Preparer:
    return build(**TEXTS)


@pytest.mark.parametrize(
    ("asked", "prompt", "adapter"),
    [
        (Asked(), "Query: cats", 0),
        (Asked("document"), "Passage: cats", 0),
        (Asked("document", task="retrieval"), "Passage: cats", 0),
        (Asked("query", task="text-matching"), "Query: cats", 1),
        (Asked("document", task="text-matching"), "Query: cats", 1),
        (Asked("document", task="code"), "Passage: cats", 2),
    ],
)
def test_a_task_has_an_adapter_and_prompts(
    pages: Preparer, tokenizer: Tokenizer, asked: Asked, prompt: str, adapter: int
) -> None:
    row = pages.item(Item(text=b"cats"), asked)
    assert row.input_ids_T.tolist() == written(tokenizer, prompt)
    assert row.adapter == adapter
    assert pages.item(Item(images=[PAGE]), asked).adapter == adapter


@pytest.mark.parametrize(
    ("asked", "prompt", "adapter"),
    [
        (Asked(), "Represent the query: cats", 0),
        (Asked("document"), "Represent the document: cats", 1),
        (Asked("document", task="retrieval"), "Represent the document: cats", 1),
        (Asked("document", task="separation"), "cats", 2),
        (Asked("document", "Of it: "), "Of it: cats", 1),
        (Asked(instruction="Of it: ", task="separation"), "Of it: cats", 2),
    ],
)
def test_a_task_has_them_by_role(
    texts: Preparer, tokenizer: Tokenizer, asked: Asked, prompt: str, adapter: int
) -> None:
    """The words of the caller go before those of the default task, whose adapter stays."""
    assert texts.preparation.stacked == ("retrieval.query", "retrieval.passage", "separation")
    row = texts.item(Item(text=b"cats"), asked)
    assert row.input_ids_T.tolist() == written(tokenizer, prompt)
    assert row.adapter == adapter


def test_tasks_share_a_batch(pages: Preparer) -> None:
    rows = [pages.item(Item(text=b"cats"), Asked(task=task)) for task in ("code", "retrieval", None, "text-matching")]
    index = collate([*rows, pages.nothing()], pages.preparation.buckets)["adapter_index"]
    np.testing.assert_array_equal(index, [[2], [0], [0], [1], [0]])
    assert index.dtype == np.int32


def test_one_adapter_is_not_chosen_by_row(build: Callable[..., Preparer]) -> None:
    """It is merged into the weights, and the other tasks are not there."""
    merged = build(**{**PAGES, "tasks": {"code": {"adapter": "code"}}, "task": "code"})
    assert (merged.preparation.adapters, merged.preparation.stacked) == (("code",), ())
    rows = [merged.item(Item(text=b"cats"), asked) for asked in (Asked(), Asked(task="code"))]
    assert "adapter_index" not in collate([*rows, merged.nothing()], merged.preparation.buckets)
    with pytest.raises(PreparationError, match=r"the task 'retrieval', which .* does not know.*\['code'\]"):
        merged.item(Item(text=b"cats"), Asked(task="retrieval"))
    one = {"retrieval": {"adapter": {"query": "retrieval.query"}}}
    with pytest.raises(PreparationError, match=r"role 'document', in which the task 'retrieval' has no .*\['query'\]"):
        build(**{**TEXTS, "tasks": one}).item(Item(text=b"cats"), Asked("document"))


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (Asked(task="clustering"), r"'clustering', which this retriever does not know.*\['retrieval', 'separation'\]"),
        (Asked(instruction="Of it: ", task="retrieval"), "both an instruction and a task with one of its own"),
    ],
)
def test_tasks_that_are_refused(texts: Preparer, asked: Asked, problem: str) -> None:
    with pytest.raises(PreparationError, match=problem):
        texts.item(Item(text=b"cats"), asked)


def test_a_task_is_no_instruction(pages: Preparer) -> None:
    with pytest.raises(PreparationError, match="has an instruction, which this retriever does not take"):
        pages.item(Item(text=b"cats"), Asked(instruction="Of it: "))


@pytest.mark.parametrize(("role", "words"), [(None, "Find:"), ("query", "Find:"), ("document", "Read it.")])
def test_an_instruction_by_role_may_join_the_text(
    build: Callable[..., Preparer], tokenizer: Tokenizer, role: str | None, words: str
) -> None:
    """As VLM2Vec-V2: of an image the instruction alone, without the space that would part it from a text."""
    prompts = {"text": "{text}", "image": "<|image_pad|> ", "image_text": "<|image_pad|> {text}"}
    preparer = build(
        prompts={"query": prompts, "document": prompts},
        instruction={"default": "", "prompt": "{instruction} {text}"},
        tasks={"same": {"instruction": {"query": "Find:", "document": "Read it."}}},
        **dict.fromkeys(("pair", "video")),
    )
    pads, asked = "<|image_pad|>" * 6, Asked(role, task="same")
    wanted = {Item(b"cats"): f"{words} cats", Item(images=(PAGE,)): f"{pads} {words}"}
    wanted[Item(b"cats", (PAGE,))] = f"{pads} {words} cats"
    for item, prompt in wanted.items():
        assert preparer.item(item, asked).input_ids_T.tolist() == written(tokenizer, prompt)
    assert preparer.item(Item(images=(PAGE,)), Asked(role)).input_ids_T.tolist() == written(tokenizer, f"{pads} ")
