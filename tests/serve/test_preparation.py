"""Findings of `periscope lint` in the files of preparation, before a request meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from periscope_export.recipes.loading import load_recipe
from periscope_export.repository.writing import write_preparation
from periscope_serve.lint import lint

CONFIG = """backend: "python" parameters {{ key: "path" value {{ string_value: "{}" }} }}
input [ {{ name: "x" data_type: TYPE_FP32 dims: [-1] }} ] output [ {{ name: "y" data_type: TYPE_FP32 dims: [-1] }} ]
"""


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """The preparation models of a retriever of texts and pages."""
    tokenizer = resources.files("periscope_demo") / "retriever" / "colqwen2-demo" / "tokenizer.json"
    for path, version in write_preparation(tmp_path, "toy", load_recipe("colqwen2"), Path(str(tokenizer))).items():
        (version.parent / "config.pbtxt").write_text(CONFIG.format(path))
    return tmp_path


def rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        recipe = json.loads((folder / "recipe.json").read_text())
        change(recipe["preparation"])
        (folder / "recipe.json").write_text(json.dumps(recipe))

    return spoil


def test_sound_preparation(prepared: Path) -> None:
    assert lint([prepared]) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (rewrite(lambda one: one["image"].update(patch_size="14")), "preparation.image.patch_size is '14'"),
        (rewrite(lambda one: one["image"].update(patch_size=0)), "patch_size"),
        (rewrite(lambda one: one["limits"].update(text_tokens=0)), "text_tokens|tokens"),
        (lambda folder: (folder / "recipe.json").write_text("{"), "recipe.json: it does not parse as JSON"),
        (lambda folder: (folder / "recipe.json").unlink(), "recipe.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: "),
        (lambda folder: (folder / "tokenizer.json").write_text('{"version": "1.0"}'), "tokenizer.json: "),
    ],
)
def test_files_that_prepare_nothing(prepared: Path, spoil: Callable[[Path], object], said: str) -> None:
    spoil(prepared / "toy_preprocess_image" / "1")
    spoil(prepared / "toy_preprocess_text" / "1")
    findings = list(map(str, lint([prepared])))
    assert findings
    for finding in findings:
        assert "its preparation does not work (" in finding
        assert any(word in finding for word in said.split("|"))
