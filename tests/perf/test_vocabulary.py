"""Texts of a comparison have as many tokens as the published tokenizer makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from periscope_perf.checkpoints import qwen3_vl_embedding
from periscope_perf.pages import queries
from periscope_perf.vocabulary import tokenizer

# Counted once with the vocabulary of Qwen's own tokenizer (`qwen.tiktoken`) and Qwen2's pre-tokenizer.
PUBLISHED = {
    "<|im_start|>system\nRepresent the user's input.<|im_end|>\n<|im_start|>user\n": 14,
    "<|im_end|>\n<|im_start|>assistant\n": 5,
    "Query: ": 3,
    "Describe the image.": 4,
}
# Of the first forty queries, in order.
PUBLISHED_QUERIES = [int(digit) for digit in "6679664586674677865555655565533658669477"]


@pytest.mark.parametrize("text", PUBLISHED)
def test_prompts_have_as_many_tokens_as_published(text: str) -> None:
    assert len(tokenizer().encode(text).ids) == PUBLISHED[text]


def test_queries_have_about_as_many_tokens_as_published() -> None:
    found = [len(tokenizer().encode(text).ids) for text in queries(len(PUBLISHED_QUERIES))]
    # A rare word is one token here; published it is two or three.
    assert all(0 <= wanted - count <= 2 for count, wanted in zip(found, PUBLISHED_QUERIES, strict=True))
    assert sum(PUBLISHED_QUERIES) - sum(found) < 0.1 * sum(PUBLISHED_QUERIES)


def test_a_checkpoint_that_cuts_texts_otherwise_is_written_anew(tmp_path: Path) -> None:
    checkpoints = qwen3_vl_embedding(tmp_path, "small")
    folder = checkpoints.folder("published")
    kept, file = (folder / "config.json").stat().st_mtime_ns, folder / "tokenizer.json"
    wanted = file.read_text(encoding="utf-8")
    assert (checkpoints.folder("published") / "config.json").stat().st_mtime_ns == kept
    file.write_text("{}", encoding="utf-8")
    assert (checkpoints.folder("published") / "tokenizer.json").read_text(encoding="utf-8") == wanted
