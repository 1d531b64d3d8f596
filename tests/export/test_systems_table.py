"""docs/systems.md and README.md say what the recipes say."""

from __future__ import annotations

from pathlib import Path

import pytest

from periscope_export.errors import ExportError
from periscope_export.recipes.systems_table import document, with_table

ROOT = Path(__file__).parents[2]


def test_the_document_is_that_of_the_recipes() -> None:
    assert (ROOT / "docs" / "systems.md").read_text(encoding="utf-8") == document(), "write it anew: make systems"


def test_the_table_in_the_readme_is_that_of_the_recipes() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == with_table(readme), "write it anew: make systems"
    with pytest.raises(ExportError, match=r"README\.md lacks .* Put them back\."):
        with_table(readme.replace("<!-- Until here. -->", ""))


def test_pairs_and_mixtures_are_said() -> None:
    (line,) = (line for line in document().splitlines() if line.startswith("| [`qwen3_vl_reranker`]"))
    assert (
        "texts, images, images with texts, videos, videos with texts; instructions; tasks `retrieval` | scores of"
        in line
    )
