"""The recipe where nobody names one, bases that are no retrievers, and projections that nobody trained."""

from __future__ import annotations

import json
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
from periscope_testing.nomic import make_colnomic, make_nomic
from periscope_testing.qwen2_5_vl import make_qwen2_5_vl
from periscope_testing.qwen2_vl import Qwen2VLSizes

LISTED = [(checkpoint.id, name) for name in recipe_names() for checkpoint in load_recipe(name).checkpoints]
BASE = "vidore/colqwen2-base"
SMALL = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64)


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
    names = ", ".join(recipe_names())
    assert f"Say with --recipe which system it descends from: {names}." in capsys.readouterr().err
    output.mkdir()
    (output / "mine").touch()
    assert main(["export", "vidore/colqwen2-v1.0", "--output", str(output)]) == 1
    assert "exists and is not empty" in capsys.readouterr().err


def test_a_mistyped_recipe_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["export", "x", "--recipe", "colqwen", "--output", "out"])
    names = ", ".join(recipe_names())
    assert f"there is no recipe 'colqwen'. Did you mean 'colqwen2'? Use one of: {names};" in capsys.readouterr().err


def test_the_base_of_adapters_is_no_retriever() -> None:
    for refuse in (lambda: recipe_of(BASE), lambda: open_retriever(f"{BASE}@main", "colqwen2")):
        with pytest.raises(
            ExportError, match=rf"{BASE} is what adapters of colqwen2 are trained on.*vidore/colqwen2-v1.0"
        ):
            refuse()


def test_a_base_with_a_revision_is_one_without_it_too() -> None:
    """Of a system whose adapters bring no projection."""
    base = "Qwen/Qwen2.5-VL-3B-Instruct"
    assert any(one.startswith(f"{base}@") for one in load_recipe("nomic_embed_multimodal").bases)
    with pytest.raises(ExportError, match=rf"{base} is what adapters of nomic_embed_multimodal are trained on"):
        open_retriever(base, "nomic_embed_multimodal")


BASES = (
    r"Adapters of colnomic_embed_multimodal are trained on vidore/colqwen2\.5-base or nomic-ai/colqwen2\.5-7B-base "
    r"\(--base\)"
)


def test_a_base_without_the_projection_is_refused_with_those_that_have_one(tmp_path: Path) -> None:
    """The one that the model card names: named by --base, by the adapter, or on no machine at all."""
    checkpoint, plain = make_colnomic(tmp_path / "checkpoint", SMALL), make_qwen2_5_vl(tmp_path / "plain", SMALL)
    missing = rf"custom_text_proj.lora_A.weight: the base has no custom_text_proj.weight(.|\n)*is plain\. {BASES}"
    with pytest.raises(ExportError, match=missing):
        open_retriever(str(checkpoint), "colnomic_embed_multimodal", str(plain))
    with pytest.raises(ExportError, match=BASES):
        open_retriever(str(checkpoint), "colnomic_embed_multimodal", "Qwen/Qwen2.5-VL-3B-Instruct")
    for base, said in ((str(plain), missing), ("Qwen/Qwen2.5-VL-3B-Instruct", BASES), (None, BASES)):
        config = json.loads((checkpoint / "adapter_config.json").read_text())
        (checkpoint / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        with pytest.raises(ExportError, match=said):
            open_retriever(str(checkpoint), "colnomic_embed_multimodal")


@pytest.mark.parametrize("recipe", ["colnomic_embed_multimodal", "colqwen2_5"])
def test_a_projection_that_neither_has_is_the_base_s(recipe: str, tmp_path: Path) -> None:
    """An adapter of the language model alone."""
    adapter = make_nomic(tmp_path / "adapter", SMALL)
    bases = rf"neither the adapter nor its base has a late projection .* Adapters of {recipe} are trained on vidore/"
    with pytest.raises(ExportError, match=bases):
        open_retriever(str(adapter), recipe)


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
