"""Tokens of a query, and those of them that are kept, beside the templates themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from periscope_export.recipes.loading import load_recipe
from periscope_perf.kept_prefixes import MAKERS, QUERY, count, keeping_recipes
from periscope_testing.tokenizers.qwen2 import make_tokenizer


@pytest.mark.parametrize("name", ["gme_qwen2_vl", "lamra_ret", "qwen3_vl_embedding"])
def test_counts_are_those_of_the_template(name: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    preparation = load_recipe(name).preparation
    given = preparation.instruction
    template = preparation.prompts["query"]["text"].replace("{instruction}", given.default if given else "")
    text = f"{QUERY.capitalize()}." if preparation.text_rules else QUERY
    whole = tokenizer.encode(template.replace("{text}", text)).ids
    kept = tokenizer.encode(template.partition("{text}")[0]).ids
    assert count(load_recipe(name), tmp_path / "tokenizer.json", tmp_path) == (len(whole), len(kept))
    assert whole[: len(kept)] == kept


def test_every_recipe_that_keeps_any_can_be_measured() -> None:
    names = keeping_recipes()
    assert "qwen3_vl_embedding" in names
    assert not {"colqwen2", "jina_clip_v1", "qwen3_vl_reranker"} & set(names)
    assert {load_recipe(name).backbone for name in names} <= MAKERS.keys()
