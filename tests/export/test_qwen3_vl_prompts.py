"""Prompts of Qwen3-VL's recipes, without a server: what the tokenizer of a checkpoint adds is followed too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, processors

from periscope_export.published import open_retriever
from periscope_export.repository.writing import write_preparation
from periscope_runtime.asked import Asked
from periscope_runtime.item import Item
from periscope_runtime.prepare import Preparer, Row
from periscope_testing.qwen3_vl.checkpoint import make_qwen3_vl_embedding
from periscope_testing.qwen3_vl.reference import EmbeddingReference


def prepared(checkpoint: Path, folder: Path, text: str, instruction: str | None = None) -> Row:
    retriever = open_retriever(str(checkpoint), "qwen3_vl_embedding")
    preparer = Preparer(write_preparation(folder, "r", retriever.recipe, retriever.tokenizer)["text"])
    return preparer.item(Item(text=text.encode()), Asked(instruction=instruction))


@pytest.mark.parametrize("appended", [False, True])
def test_a_token_that_the_tokenizer_appends_is_the_pooled_one(tmp_path: Path, appended: bool) -> None:
    """Whether the published tokenizer appends <|endoftext|> is asked in QwenLM/Qwen3-VL-Embedding issue 4."""
    checkpoint = make_qwen3_vl_embedding(tmp_path / "checkpoint")
    file = str(checkpoint / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    end = tokenizer.token_to_id("<|endoftext|>")
    if appended:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", end)]
        )
        tokenizer.save(file)
    reference = EmbeddingReference(checkpoint)
    row = prepared(checkpoint, tmp_path / "r", "energy", "Find it")
    wanted = reference.prepare(reference.conversation("Find it", text="energy"))["input_ids"][0].numpy()
    np.testing.assert_array_equal(row.input_ids_T, wanted)
    assert (wanted[-1] == end) == appended
    assert np.flatnonzero(row.pooled_T).tolist() == [len(wanted) - 1]


def test_pixel_limits_of_the_checkpoint_do_not_win(tmp_path: Path) -> None:
    """The released code passes its own, whatever preprocessor_config.json says."""
    retriever = open_retriever(str(make_qwen3_vl_embedding(tmp_path / "checkpoint")), "qwen3_vl_embedding")
    image = retriever.recipe.preparation.page_policy
    assert (image.min_pixels, image.max_pixels) == (4 * 32 * 32, 1800 * 32 * 32)
    assert retriever.changes == []
