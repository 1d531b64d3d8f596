"""The prefix that all prompts share: what it is, and that leaving it out loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from periscope_demo.checkpoints.qwen3_vl import make_qwen3_vl_embedding, make_qwen3_vl_reranker
from periscope_export.published import open_retriever
from periscope_export.repository import write_preparation
from periscope_runtime.collate import Tensors, collate
from periscope_runtime.item import Item
from periscope_runtime.prepare import Preparer, Row
from periscope_runtime.prompt import Asked
from runtime.pictures import encode, noise

BEFORE = "<|im_start|>system\nRepresent the user's input.<|im_end|>\n<|im_start|>user\n"
RERANKING = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: '
    "Given a search query, retrieve relevant candidates that answer the query.<Query>:"
)
PAGE = encode(noise(96, 64), "PNG")


def preparing(checkpoint: Path, recipe: str, folder: Path) -> Preparer:
    retriever = open_retriever(str(checkpoint), recipe)
    return Preparer(next(iter(write_preparation(folder, "r", retriever.recipe, retriever.tokenizer).values())))


@pytest.fixture(scope="module")
def qwen3_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl_embedding(tmp_path_factory.mktemp("embedding") / "checkpoint")


@pytest.fixture(scope="module")
def embedding(qwen3_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Preparer:
    return preparing(qwen3_vl, "qwen3_vl_embedding", tmp_path_factory.mktemp("preparation"))


def text(preparer: Preparer, content: str, instruction: str | None = None) -> Row:
    return preparer.item(Item(text=content.encode()), Asked(instruction=instruction))


def test_it_goes_up_to_the_content(qwen3_vl: Path, embedding: Preparer, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(qwen3_vl / "tokenizer.json"))
    assert embedding.shared_prefix.tolist() == tokenizer.encode(BEFORE).ids
    reranker = preparing(make_qwen3_vl_reranker(tmp_path / "c"), "qwen3_vl_reranker", tmp_path / "r")
    assert reranker.shared_prefix.tolist() == tokenizer.encode(RERANKING).ids


def test_prompts_of_texts_and_pages_that_begin_differently_share_none(preparer: Preparer) -> None:
    assert preparer.shared_prefix.tolist() == []


def whole(tensors: Tensors, kept_K: npt.NDArray[np.int32]) -> dict[str, list[list[int]]]:
    """Prompts and positions with the prefix again, row by row and without padding."""
    kept = tensors["prefix_index"].shape[1]
    assert tensors["prefix_index"].tolist() == [list(range(kept))] * len(tensors["input_ids"])
    assert kept in (0, len(kept_K))
    before = np.tile(np.arange(kept), (3, 1))
    found: dict[str, list[list[int]]] = {"input_ids": [], "position_ids": [], "pool_mask": []}
    for row, real in enumerate(tensors["attention_mask"].sum(1)):
        found["input_ids"].append([*kept_K[:kept].tolist(), *tensors["input_ids"][row, :real].tolist()])
        positions = np.concatenate((before, tensors["position_ids"][row, :, :real]), axis=1)
        found["position_ids"].append(positions.ravel().tolist())
        found["pool_mask"].append([0] * kept + tensors["pool_mask"][row, :real].tolist())
    return found


def check(rows: Sequence[Row], preparer: Preparer, kept: bool) -> None:
    buckets, kept_K = preparer.preparation.buckets, preparer.shared_prefix
    plain, cut = collate(rows, buckets), collate(rows, buckets, kept_K)
    assert "prefix_index" not in plain
    assert bool(cut["prefix_index"].shape[1]) == kept
    assert whole(cut, kept_K) == whole({**plain, "prefix_index": np.zeros((len(rows), 0), np.int32)}, kept_K)


TEXTS = st.text(min_size=1, max_size=40).filter(
    lambda text: bool(text.strip()) and "<|image_pad|>" not in text and text.isprintable()
)


@given(st.lists(TEXTS, min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_rows_without_it_are_what_they_were(embedding: Preparer, texts: list[str]) -> None:
    check([text(embedding, one) for one in texts], embedding, kept=True)


def test_pages_are_without_it_too(embedding: Preparer) -> None:
    rows = [embedding.image(PAGE), embedding.item(Item(text=b"revenue", image=PAGE), Asked())]
    check(rows, embedding, kept=True)
    found = rows[0].without(5).visual_grid
    assert found is not None
    assert rows[0].visual_grid == (found[0] + 5, *found[1:])


def test_a_prompt_with_an_instruction_is_whole_and_keeps_others_whole(embedding: Preparer) -> None:
    check([text(embedding, "energy", "Find the page")], embedding, kept=False)
    check([text(embedding, "energy", "Find the page"), text(embedding, "revenue")], embedding, kept=False)


def test_a_text_that_changes_the_last_token_of_the_prefix_is_whole(tmp_path: Path) -> None:
    """As published tokenizers do, this one makes one token of two line breaks: that of the template and the text's."""
    checkpoint = make_qwen3_vl_embedding(tmp_path / "checkpoint")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.add_tokens(["\n\n"])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    joining = preparing(checkpoint, "qwen3_vl_embedding", tmp_path / "r")
    check([text(joining, "energy")], joining, kept=True)
    check([text(joining, "\nenergy")], joining, kept=False)


def test_a_candidate_that_could_not_be_prepared_keeps_others_whole(tmp_path: Path) -> None:
    reranker = preparing(make_qwen3_vl_reranker(tmp_path / "c"), "qwen3_vl_reranker", tmp_path / "r")
    query = reranker.side(Item(text=b"energy"))
    pair = reranker.pair(query, reranker.side(Item(image=PAGE)), Asked())
    check([pair], reranker, kept=True)
    check([pair, reranker.nothing()], reranker, kept=False)
