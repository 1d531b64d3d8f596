"""Tokens that are added at run time: their embeddings are those that transformers makes of the published calls.

V rows of a table, H hidden width.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from periscope_export.errors import ExportError
from periscope_export.fidelity import fingerprint
from periscope_export.fidelity.fingerprint import vector_fields
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings
from periscope_testing.qwen2_vl import Qwen2VLSizes, make_qwen2_vl
from periscope_testing.tokenizers.qwen2 import make_tokenizer
from periscope_testing.u_marvel import ADDED, END, START, with_temperature

RECIPE, TABLE, HEAD = "u_marvel", "language_model.embed_tokens.weight", "lm_head.weight"
SIZES = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64, vocabulary=640)
# As published, and with the rows of the file.
FORMS: tuple[dict[str, Any], dict[str, Any]] = ({}, {"mean_rows": []})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen2_vl(tmp_path_factory.mktemp("added") / "checkpoint", SIZES)


def rows(retriever: PublishedRetriever, name: str = TABLE) -> torch.Tensor:
    return retriever.checkpoint.weights.read(name).to(torch.float32)


@pytest.mark.parametrize("tied", [True, False])
def test_rows_are_those_that_transformers_makes(tied: bool, tmp_path: Path) -> None:
    """Of the language head too, be it the table or not. It draws around the mean, with a deviation of 2e-6."""
    from transformers import Qwen2VLForConditionalGeneration

    sizes = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64, tied=tied, dtype=torch.bfloat16)
    checkpoint = make_qwen2_vl(tmp_path / "made", sizes, layout="new", form="nested")
    model = Qwen2VLForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    length = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).get_vocab_size()
    for count in range(1, len(ADDED) + 1):
        model.resize_token_embeddings(length + count)
    retriever = open_retriever(str(checkpoint), RECIPE)
    for name, module in ((TABLE, model.get_input_embeddings()), (HEAD, model.get_output_embeddings())):
        table_VH, wanted_VH = rows(retriever, name), module.weight.detach()
        np.testing.assert_allclose(table_VH[: length + 3], wanted_VH, rtol=0, atol=2e-5)
        # As far from the file's as any two rows.
        stored_VH = open_retriever(str(checkpoint), RECIPE, settings={"mean_rows": []}).checkpoint.weights.read(name)
        moved = (table_VH - stored_VH.to(torch.float32)).abs().amax(1).nonzero().flatten().tolist()
        assert moved == [length + 1, length + 2]
    assert retriever.checkpoint.weights.info(TABLE).dtype == rows(retriever).dtype == torch.float32


def test_the_file_s_rows_are_another_form(checkpoint: Path) -> None:
    plain, other = (open_retriever(str(checkpoint), RECIPE, settings=one) for one in FORMS)
    assert vector_fields(plain.recipe, "fp32") != vector_fields(other.recipe, "fp32")
    vocabulary = Tokenizer.from_file(str(plain.tokenizer))
    vocabulary.add_tokens(list(ADDED))
    first, last = (vocabulary.token_to_id(token) for token in (START, END))
    assert (rows(plain) != rows(other)).any(1).nonzero().flatten().tolist() == [first, last]
    for row in (first, last):
        np.testing.assert_allclose(rows(plain)[row], rows(plain)[:row].mean(0), rtol=0, atol=1e-7)
    # Each alone, too.
    one = rows(open_retriever(str(checkpoint), RECIPE, settings={"mean_rows": [END]}))
    np.testing.assert_array_equal(one[first], rows(other)[first])
    np.testing.assert_allclose(one[last], one[:last].mean(0), rtol=0, atol=1e-7)


def test_the_order_of_tokens_counts(checkpoint: Path) -> None:
    orders = ([*ADDED], [*ADDED[::-1]])
    found = [open_retriever(str(checkpoint), RECIPE, settings={"preparation.added_tokens": one}) for one in orders]
    digests = {fingerprint.begin(one.recipe, "fp32", one.steps, one.tokenizer).hexdigest() for one in found}
    assert len(digests) == 2


def test_a_tokenizer_that_has_the_tokens_already(tmp_path: Path) -> None:
    """Of a checkpoint that was saved after its table was resized: its rows are what was trained."""
    folder = make_qwen2_vl(tmp_path / "made", SIZES)
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary.add_tokens(list(ADDED))
    vocabulary.save(str(folder / "tokenizer.json"))
    found, stored = (open_retriever(str(folder), RECIPE, settings=one) for one in FORMS)
    np.testing.assert_array_equal(rows(found), rows(stored))
    for token in ADDED:
        assert f"tokenizer.json has {token} already: its embedding is the checkpoint's" in found.changes


def test_a_table_without_rows_for_them_is_refused(tmp_path: Path) -> None:
    length = make_tokenizer().get_vocab_size()
    folder = make_qwen2_vl(tmp_path / "made", replace(SIZES, vocabulary=length))
    with pytest.raises(
        ExportError, match=rf"has {length} rows, and none .*: '<emb>' \({length}\), .* give the checkpoint"
    ):
        open_retriever(str(folder), RECIPE)


def test_a_weight_that_the_recipe_does_not_name_is_left_over(tmp_path: Path) -> None:
    folder = with_temperature(make_qwen2_vl(tmp_path / "made", SIZES))
    open_retriever(str(folder), RECIPE)
    (tmp_path / "mine.yaml").write_text(f"extends: {RECIPE}\nunused_weights: []\n")
    with pytest.raises(ExportError, match=r"1 unused: sim\.temp"):
        open_retriever(str(folder), str(tmp_path / "mine.yaml"))


def test_only_added_tokens_have_a_mean() -> None:
    with pytest.raises(ExportError, match=r"mean_rows names <a>, which preparation.added_tokens does not add"):
        with_settings(load_recipe(RECIPE), {"mean_rows": ["<a>"]})
