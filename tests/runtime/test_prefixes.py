"""The prefixes that prompts share: what they are, and that leaving them out loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from periscope_export.published import open_retriever
from periscope_export.repository.writing import write_preparation
from periscope_runtime.asked import Asked
from periscope_runtime.collate import Tensors, collate
from periscope_runtime.item import Item
from periscope_runtime.prefixes import Ids, prefix_index
from periscope_runtime.prepare import Preparer, Row
from periscope_runtime.prompt import PromptEncoder
from periscope_runtime.recipe import Buckets
from periscope_testing.qwen3_vl.checkpoint import make_qwen3_vl_embedding, make_qwen3_vl_reranker
from runtime.pictures import encode, noise

RETRIEVAL = "Retrieve images or text relevant to the user's query."
EMBEDDING = "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n"
RERANKING = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {}<Query>:'
)
PAGE = encode(noise(96, 64), "PNG")


def preparing(checkpoint: Path, recipe: str, folder: Path) -> Preparer:
    """As the language model of an export with kept prefixes is prepared for."""
    retriever = open_retriever(str(checkpoint), recipe)
    kept = PromptEncoder(retriever.recipe.preparation, retriever.tokenizer).prefixes()
    written = write_preparation(folder, "r", retriever.recipe, retriever.tokenizer, kept)
    return Preparer(next(iter(written.values())))


@pytest.fixture(scope="module")
def qwen3_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3_vl_embedding(tmp_path_factory.mktemp("embedding") / "checkpoint")


@pytest.fixture(scope="module")
def embedding(qwen3_vl: Path, tmp_path_factory: pytest.TempPathFactory) -> Preparer:
    return preparing(qwen3_vl, "qwen3_vl_embedding", tmp_path_factory.mktemp("preparation"))


def text(preparer: Preparer, content: str, instruction: str | None = None) -> Row:
    return preparer.item(Item(text=content.encode()), Asked(instruction=instruction))


def test_there_is_one_for_each_instruction_with_a_name(qwen3_vl: Path, embedding: Preparer, tmp_path: Path) -> None:
    """Up to the content."""
    tokenizer = Tokenizer.from_file(str(qwen3_vl / "tokenizer.json"))
    reranker = preparing(make_qwen3_vl_reranker(tmp_path / "c"), "qwen3_vl_reranker", tmp_path / "r")
    defaults = (
        "Represent the user's input.",
        "Given a search query, retrieve relevant candidates that answer the query.",
    )
    for preparer, before, default in zip((embedding, reranker), (EMBEDDING, RERANKING), defaults, strict=True):
        wanted = [tokenizer.encode(before.format(instruction)).ids for instruction in (default, RETRIEVAL)]
        assert preparer.kept is not None
        assert [prefix_J.tolist() for prefix_J in preparer.kept] == wanted


def test_prompts_of_texts_and_pages_that_begin_differently_share_none(
    prompts: PromptEncoder, preparer: Preparer
) -> None:
    assert prompts.prefixes() == []
    assert preparer.kept is None


def whole(tensors: Tensors, prefixes: Sequence[Ids]) -> dict[str, list[list[int]]]:
    """Prompts and positions with their prefixes again, row by row and without padding."""
    tokens = [token for prefix_J in prefixes for token in prefix_J.tolist()]
    found: dict[str, list[list[int]]] = {"input_ids": [], "position_ids": [], "pool_mask": []}
    for row, index in enumerate(tensors["prefix_index"].tolist()):
        real, kept = tensors["attention_mask"][row].sum(), len(index)
        found["input_ids"].append([tokens[at] for at in index] + tensors["input_ids"][row, :real].tolist())
        positions = np.concatenate((np.tile(np.arange(kept), (3, 1)), tensors["position_ids"][row, :, :real]), axis=1)
        found["position_ids"].append(positions.ravel().tolist())
        found["pool_mask"].append([0] * kept + tensors["pool_mask"][row, :real].tolist())
    return found


def check(rows: Sequence[Row], preparer: Preparer, kept: bool) -> None:
    buckets, prefixes = preparer.preparation.buckets, preparer.kept
    assert prefixes is not None
    plain, cut = collate(rows, buckets), collate(rows, buckets, prefixes)
    assert "prefix_index" not in plain
    assert cut["prefix_index"].shape[1] in ([len(prefix_J) for prefix_J in prefixes] if kept else [0])
    assert whole(cut, prefixes) == whole({**plain, "prefix_index": np.zeros((len(rows), 0), np.int32)}, prefixes)


TEXTS = st.text(min_size=1, max_size=40).filter(
    lambda text: bool(text.strip()) and "<|image_pad|>" not in text and text.isprintable()
)


@given(st.lists(TEXTS, min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_rows_without_it_are_what_they_were(embedding: Preparer, texts: list[str]) -> None:
    check([text(embedding, one) for one in texts], embedding, kept=True)


def test_pages_are_without_it_too(embedding: Preparer) -> None:
    rows = [embedding.image(PAGE), embedding.item(Item(text=b"revenue", images=[PAGE]), Asked())]
    check(rows, embedding, kept=True)
    found = rows[0].without(5).visual_grid
    assert found is not None
    assert rows[0].visual_grid == (found[0] + 5, *found[1:])


def test_a_prompt_with_an_instruction_is_whole_and_keeps_others_whole(embedding: Preparer) -> None:
    check([text(embedding, "energy", "Find the page")], embedding, kept=False)
    check([text(embedding, "energy", "Find the page"), text(embedding, "revenue")], embedding, kept=False)


def test_a_task_has_its_own_prefix_and_shares_no_request_with_one_of_another_length(embedding: Preparer) -> None:
    check([text(embedding, "energy", RETRIEVAL)], embedding, kept=True)
    check([text(embedding, "energy", RETRIEVAL), text(embedding, "revenue")], embedding, kept=False)


def test_prefixes_of_one_length_share_a_request() -> None:
    prefixes = [np.array(ids, np.int32) for ids in ([7, 8, 9], [7, 1, 2])]
    rows = [np.array(ids, np.int32) for ids in ([7, 1, 2, 5], [7, 8, 9, 4, 4])]
    assert prefix_index(rows, prefixes).tolist() == [[3, 4, 5], [0, 1, 2]]
    assert prefix_index([*rows, rows[0][1:]], prefixes).shape == (3, 0)


def test_the_longest_prefix_of_a_row_counts_and_none_that_its_own_image_would_be_part_of() -> None:
    """A page of as many visual tokens as the constant image has is no text beside that."""
    prefixes = [np.array(ids, np.int32) for ids in ([7, 8], [7, 8, 5, 5, 9])]
    row = np.array([7, 8, 5, 5, 9, 1], np.int32)
    assert prefix_index([row], prefixes).tolist() == [[2, 3, 4, 5, 6]]
    plain = Row(row, np.zeros((3, 6), np.int32), np.zeros((6, 2), np.int32), np.ones(6, np.int32))
    buckets = Buckets(patches=128, page_tokens=16, text_tokens=16)
    for first_image, kept in ((None, 5), (2, 2)):
        tensors = collate([replace(plain, first_image=first_image)], buckets, prefixes)
        assert tensors["prefix_index"].shape == (1, kept)


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
    pair = reranker.pair(query, reranker.side(Item(images=[PAGE])), Asked())
    check([pair], reranker, kept=True)
    check([pair, reranker.nothing()], reranker, kept=False)
