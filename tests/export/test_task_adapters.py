"""One file with an adapter for each task: the one that is asked for is merged, as PEFT activates it."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn

from periscope_export.checkpoint.hub import _needed
from periscope_export.checkpoint.reading import WantedAdapters, open_checkpoint
from periscope_export.commands.recipes import described
from periscope_export.errors import ExportError
from periscope_export.published import open_retriever
from periscope_export.recipes.checking import validate
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import _nested, with_settings
from periscope_runtime.recipe import Task
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.torchvision_operators import declare_torchvision_operators

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

TASKS = ("retrieval", "text-matching", "code")
FIELDS: dict[str, Any] = {
    "preparation.tasks": {task: {"adapter": task} for task in TASKS},
    "preparation.task": "retrieval",
    "adapters": {"folder": "adapters"},
}


@pytest.fixture(scope="module")
def peft() -> ModuleType:
    declare_torchvision_operators()
    return importlib.import_module("peft")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.multi_vector_projector = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.multi_vector_projector(torch.tanh(self.q_proj(x)))
        return projected


@pytest.fixture(scope="module")
def published(peft: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint as jina-embeddings-v4 is published, and the live model of PEFT with all its adapters."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("made")
    base, adapters = Model(), folder / "adapters"
    save_file({name: tensor.clone() for name, tensor in base.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "multi_vector_projector"])
    live = peft.get_peft_model(base, config, adapter_name=TASKS[0])
    for task in TASKS[1:]:
        live.add_adapter(task, config)
    state = {name: nn.init.normal_(tensor, std=0.3) for name, tensor in live.state_dict().items() if "lora_" in name}
    adapters.mkdir()
    save_file({name: tensor.clone() for name, tensor in state.items()}, adapters / "adapter_model.safetensors")
    stored = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": ".."}
    (adapters / "adapter_config.json").write_text(json.dumps(stored))
    return folder, live


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("given", ["", "adapters"])
def test_the_adapter_of_a_task_is_merged_as_peft_activates_it(
    published: tuple[Path, Any], task: str, given: str
) -> None:
    """The checkpoint may be given, or the folder of its adapters, whose base it is."""
    folder, live = published
    checkpoint = open_checkpoint(folder / given, canonical=str, wanted=WantedAdapters((task,), "adapters"))
    plain, x = Model(), torch.randn((5, 8), generator=torch.Generator().manual_seed(1))
    plain.load_state_dict({name: checkpoint.weights.read(name) for name in checkpoint.weights})
    live.set_adapter(task)
    with torch.no_grad():
        wanted, found = live(x), plain(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    # Each task is far from the others, so that a wrong one is seen.
    for other in set(TASKS) - {task}:
        live.set_adapter(other)
        with torch.no_grad():
            assert float((live(x) - found).abs().max()) > 0.1
    assert f"(adapter of {task})" in checkpoint.description


def test_a_task_without_an_adapter(published: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = published
    with pytest.raises(
        ExportError, match="none of the task 'summaries' in its file, which has code, retrieval, text-m"
    ):
        open_checkpoint(folder, canonical=str, wanted=WantedAdapters(("summaries",), "adapters"))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    save_file({"q_proj.lora_A.weight": torch.ones(4, 8)}, copy / "adapters" / "adapter_model.safetensors")
    with pytest.raises(ExportError, match="which is of no task"):
        open_checkpoint(copy, canonical=str, wanted=WantedAdapters(("code",), "adapters"))


def test_the_full_weights_alone_are_another_system(published: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = published
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path)
    with pytest.raises(ExportError, match=r"has no adapters/adapter_config\.json, and .*--set adapters\.merged=true"):
        open_checkpoint(tmp_path, canonical=str, wanted=WantedAdapters(("code",), "adapters"))
    with pytest.raises(ExportError, match=r"has no adapter_config\.json, and without"):
        open_checkpoint(tmp_path, canonical=str, wanted=WantedAdapters(("code",), None))
    assert not open_checkpoint(tmp_path, canonical=str).weights.adapted()


def test_a_file_of_tasks_without_one_named(published: tuple[Path, Any]) -> None:
    with pytest.raises(ExportError, match="one of several in this file"):
        open_checkpoint(published[0] / "adapters", canonical=str)


def test_the_weights_of_the_adapters_are_fetched() -> None:
    files = ["model.safetensors", "adapters/adapter_model.safetensors", "onnx/model.safetensors"]
    assert _needed(files, ["adapters"]) == ["model.safetensors", "adapters/adapter_model.safetensors"]


def test_a_recipe_names_its_tasks() -> None:
    stacked = with_settings(load_recipe("colqwen2_dense"), FIELDS)
    assert list(described(stacked))[-1] == (
        "  with an adapter for each of the tasks retrieval, text-matching, code; --task NAME merges one"
    )
    assert stacked.preparation.stacked == TASKS
    one = with_settings(stacked, {"adapters.task": "code"})
    assert list(described(one))[-1] == "  of the task code"
    assert (tuple(one.preparation.tasks), one.preparation.task, one.preparation.stacked) == (("code",), "code", ())
    # Recipes that are written into a repository export alike.
    assert validate(one.served(), "again") == one
    with pytest.raises(ExportError, match="there is no task 'summaries', task is one of retrieval, text-match"):
        with_settings(stacked, {"adapters.task": "summaries"})
    without: dict[str, Any] = {"preparation.tasks": None, "preparation.task": None}
    for alone in ({"adapters": None}, without):
        with pytest.raises(ExportError, match=r"adapters and preparation\.tasks with adapters need each other"):
            with_settings(stacked, alone)
    plain = with_settings(stacked, {**without, "adapters": None})
    assert not plain.preparation.tasks
    two = with_settings(stacked, {"preparation.tasks.code": None})
    assert two.preparation.stacked == TASKS[:2]


def test_an_adapter_of_one_role() -> None:
    """As jina-embeddings-v3, whose queries and passages have one each: it is merged by its own name."""
    by_role = {"query": "retrieval.query", "document": "retrieval.passage"}
    tasks = {"retrieval": {"adapter": by_role}, "separation": {"adapter": "separation"}}
    stacked = with_settings(load_recipe("colqwen2_dense"), {**FIELDS, "preparation.tasks": tasks})
    assert stacked.preparation.stacked == ("retrieval.query", "retrieval.passage", "separation")
    one = with_settings(stacked, {"adapters.task": "retrieval.passage"}).preparation
    assert one.tasks == {"retrieval": Task(adapter={"document": "retrieval.passage"})}
    with pytest.raises(ExportError, match=r"several adapters, task is one of retrieval\.passage, retrieval\.query"):
        with_settings(stacked, {"adapters.task": "retrieval"})


def test_an_adapter_that_is_merged_already(tmp_path: Path) -> None:
    """Full weights: nothing is looked for beside them, and nothing is merged into them."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": "colqwen2_dense", **_nested(FIELDS)}))
    checkpoint = str(make_colqwen2(tmp_path / "made", adapter=None))
    recipe = str(tmp_path / "mine.yaml")
    merged = {"adapters.task": "code", "adapters.merged": True}
    opened = open_retriever(checkpoint, recipe, settings=merged)
    assert not opened.checkpoint.weights.adapted()
    assert list(opened.recipe.preparation.tasks) == ["code"]
    with pytest.raises(ExportError, match=r"has no adapters/adapter_config\.json.*--set adapters\.merged=true"):
        open_retriever(checkpoint, recipe, settings={"adapters.task": "code"})
    with pytest.raises(ExportError, match="merged needs task"):
        open_retriever(checkpoint, recipe, settings={"adapters.merged": True})
