"""docs/systems.md says what the recipes say."""

from __future__ import annotations

from pathlib import Path

from periscope_export.recipes.systems_table import document

WRITTEN = Path(__file__).parents[2] / "docs" / "systems.md"


def test_the_document_is_that_of_the_recipes() -> None:
    assert WRITTEN.read_text(encoding="utf-8") == document(), "write it anew: make systems"


def test_pairs_and_mixtures_are_said() -> None:
    (line,) = (line for line in document().splitlines() if line.startswith("| [`qwen3_vl_reranker`]"))
    assert (
        "texts, images, images with texts, videos, videos with texts; instructions; tasks `retrieval` | scores of"
        in line
    )
