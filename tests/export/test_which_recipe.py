"""The recipe where nobody names one, bases that are no retrievers, and projections that nobody trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import pytest
import torch

from periscope_client.console import main
from periscope_demo.shipped import shipped_checkpoint
from periscope_export import exporter
from periscope_export.checkpoint.untrained import doubt, untrained
from periscope_export.errors import ExportError
from periscope_export.published import open_retriever
from periscope_export.recipes.loading import load_recipe, recipe_names
from periscope_export.recipes.which import recipe_of
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes

LISTED = [(checkpoint.id, name) for name in recipe_names() for checkpoint in load_recipe(name).checkpoints]
BASE = "vidore/colqwen2-base"


@pytest.mark.parametrize(("checkpoint", "recipe"), LISTED)
def test_the_recipe_of_a_listed_checkpoint_is_known(checkpoint: str, recipe: str, tmp_path: Path) -> None:
    organisation, _, model = checkpoint.partition("/")
    cached = tmp_path / f"models--{organisation}--{model}" / "snapshots" / ("0" * 40)
    cached.mkdir(parents=True)
    assert recipe_of(checkpoint) == recipe_of(f"{checkpoint}@main") == recipe_of(str(cached)) == recipe


def test_an_export_without_a_recipe_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says what it does not know."""
    output = tmp_path / "out"
    assert main(["export", str(tmp_path), "--output", str(output)]) == 1
    assert "Say with --recipe which system it descends from: colpali, colqwen2" in capsys.readouterr().err
    output.mkdir()
    (output / "mine").touch()
    assert main(["export", "vidore/colqwen2-v1.0", "--output", str(output)]) == 1
    assert "exists and is not empty" in capsys.readouterr().err


def test_a_mistyped_recipe_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "x", "--recipe", "colqwen", "--output", "out"])
    assert "there is no recipe 'colqwen'. Did you mean 'colqwen2'? Use one of: colpali, " in capsys.readouterr().err


def test_the_base_of_adapters_is_no_retriever() -> None:
    for refuse in (lambda: recipe_of(BASE), lambda: open_retriever(f"{BASE}@main", "colqwen2")):
        with pytest.raises(
            ExportError, match=rf"{BASE} is what adapters of colqwen2 are trained on.*vidore/colqwen2-v1.0"
        ):
            refuse()


@pytest.mark.parametrize("shape", [(128, 192), (128, 1536), (128, 2048)])
def test_projections_as_they_are_made_look_untrained(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    normal = 0.02 * torch.randn(shape)
    assert untrained(normal)
    assert untrained(normal.bfloat16())
    assert untrained(torch.nn.Linear(shape[1], shape[0]).weight.detach())
    # A single direction, a tenth of what the matrix is.
    learned = torch.outer(torch.randn(shape[0]), torch.randn(shape[1])) * normal.norm() / math.prod(shape) ** 0.5
    assert not untrained(normal + 0.3 * learned)


def test_there_is_no_doubt_about_a_trained_retriever() -> None:
    weights = open_retriever(str(shipped_checkpoint()), "colqwen2_dense").checkpoint.weights
    assert doubt(weights) is None
    assert not untrained(weights.read("late_head.projection.weight"))


@pytest.mark.parametrize(("adapter", "doubts"), [(None, 1), ("lora", 0)])
def test_an_export_says_that_a_projection_may_be_untrained(
    adapter: Literal["lora"] | None, doubts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of full weights; one that an adapter changes was trained."""
    sizes = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64)
    checkpoint, said = make_colqwen2(tmp_path / "one", sizes, adapter=adapter), list[str]()
    monkeypatch.setattr(exporter, "_write", lambda *_: None)
    exporter.export(exporter.Request(str(checkpoint), "colqwen2", tmp_path / "out"), said.append)
    assert sum("the late projection may be untrained" in line for line in said) == doubts
