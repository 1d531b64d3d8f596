"""Adapters of several tasks as one file holds them: what is read of it for a graph that has all, and what is refused.

I in, O out, N adapters, R their ranks together.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from export.test_task_adapters import TASKS, Model, peft
from periscope_export.checkpoint import untrained
from periscope_export.checkpoint.adapter_stack import DOWN, UP
from periscope_export.checkpoint.reading import WantedAdapters, open_checkpoint
from periscope_export.errors import ExportError
from periscope_export.models.heads import LateHead
from periscope_export.models.task_adapters import ADAPTER_INDEX
from periscope_export.models.towers import Towers
from periscope_export.published import open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import parse_settings, with_settings
from periscope_testing.jina_embeddings_v4 import make_jina_embeddings_v4
from periscope_testing.qwen2_vl import Qwen2VLSizes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

__all__ = ["peft"]

NAMES, RECIPE, FILE = WantedAdapters(TASKS, "adapters"), "jina_embeddings_v4", "adapter_model.safetensors"
SIZES = Qwen2VLSizes(vision_layers=1, language_layers=2, mlp=64)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_jina_embeddings_v4(tmp_path_factory.mktemp("made") / "checkpoint", SIZES, seed=7)


def changed(checkpoint: Path, folder: Path, change: Callable[[State], object], **config: Any) -> Path:
    """A copy with another adapter file and other settings in its `adapter_config.json`."""
    copy = folder / "copy"
    shutil.copytree(checkpoint, copy)
    file = copy / "adapters" / FILE
    state = load_file(file)
    change(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    stored = copy / "adapters" / "adapter_config.json"
    stored.write_text(json.dumps({**json.loads(stored.read_text()), **config}))
    return copy


@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 8},
        {"r": 4, "lora_alpha": 3, "use_rslora": True},
        {"r": 2, "rank_pattern": {"q_proj": 5}, "alpha_pattern": {"multi_vector_projector": 7}},
    ],
)
def test_stacked_matrices_are_those_of_peft(peft: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """Scaled; ranks that differ by layer are filled up."""
    torch.manual_seed(0)
    base = Model()
    save_file({name: tensor.clone() for name, tensor in base.state_dict().items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    config = peft.LoraConfig(target_modules=["q_proj", "multi_vector_projector"], **options)
    live = peft.get_peft_model(base, config, adapter_name=TASKS[0])
    for task in TASKS[1:]:
        live.add_adapter(task, config)
    state = {name: nn.init.normal_(tensor, std=0.3) for name, tensor in live.state_dict().items() if "lora_" in name}
    (tmp_path / "adapters").mkdir()
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "adapters" / FILE)
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **options}))
    weights = open_checkpoint(tmp_path, canonical=str, wanted=NAMES).weights
    rank = max([options["r"], *options.get("rank_pattern", {}).values()])
    for layer in ("q_proj", "multi_vector_projector"):
        down_RI, up_OR = (weights.read(f"{layer}{ending}") for ending in (DOWN, UP))
        for name, tensor in ((DOWN, down_RI), (UP, up_OR)):
            assert weights.info(f"{layer}{name}") == (tuple(tensor.shape), tensor.dtype)
        assert down_RI.shape[0] == up_OR.shape[1] == 3 * rank
        published = live.base_model.model.get_submodule(layer)
        for place, task in enumerate(TASKS):
            part = slice(place * rank, (place + 1) * rank)
            found_OI, wanted_OI = up_OR[:, part] @ down_RI[part], published.get_delta_weight(task)
            torch.testing.assert_close(found_OI, wanted_OI, rtol=0, atol=1e-6)
        torch.testing.assert_close(weights.read(f"{layer}.weight"), published.base_layer.weight, rtol=0, atol=0)
    for ending, matrix in ((DOWN, "lora_A"), (UP, "lora_B")):
        assert weights.stored_name(f"q_proj{ending}") == f"base_model.model.q_proj.{matrix}.{TASKS[0]}.weight"


def test_the_projection_may_lie_with_the_adapters(checkpoint: Path, tmp_path: Path) -> None:
    """Under all of them, merged or stacked; a file without one is refused."""
    root, beside = (
        make_jina_embeddings_v4(tmp_path / place, SIZES, seed=7, projector=place, layout="old")
        for place in ("root", "adapters")
    )
    for settings in ({}, {"adapters.task": "code"}):
        opened = [open_retriever(str(one), RECIPE, settings=settings) for one in (root, beside)]
        there, here = (Towers(one.steps[2:3], one.checkpoint.weights)["late_head"].state_dict() for one in opened)
        assert there.keys() == here.keys()
        assert all(torch.equal(there[name], here[name]) for name in there)
        assert untrained.doubt(opened[1].checkpoint.weights) is None
    nowhere = changed(beside, tmp_path, _without(r"multi_vector_projector\.(weight|bias)"))
    with pytest.raises(ExportError, match=r"lora_A\.retrieval\.weight: the base has no multi_vector_projector\.weight"):
        open_retriever(str(nowhere), RECIPE)


def _dora(state: State) -> None:
    for name in [name for name in state if "lora_B" in name]:
        state[name.replace("lora_B", "lora_magnitude_vector").removesuffix(".weight")] = torch.ones(len(state[name]))


def _whole(state: State) -> None:
    (one, *_) = [name for name in state if "layers.0.mlp.up_proj.lora_A.code" in name]
    del state[one], state[one.replace("lora_A", "lora_B")]
    state[one.replace("lora_A.code", "modules_to_save.code")] = torch.ones(SIZES.mlp, SIZES.width)


def _without(pattern: str) -> Callable[[State], None]:
    def drop(state: State) -> None:
        for name in [name for name in state if re.search(pattern, name)]:
            del state[name]

    return drop


def _on_the_vision_tower(state: State) -> None:
    for task in TASKS:
        module = "base_model.model.model.visual.blocks.0.attn.proj.lora_"
        state[f"{module}A.{task}.weight"] = torch.ones(SIZES.rank, SIZES.vision_width)
        state[f"{module}B.{task}.weight"] = torch.ones(SIZES.vision_width, SIZES.rank)


def _on_a_table(state: State) -> None:
    for task in TASKS:
        module = "base_model.model.model.language_model.embed_tokens.lora_embedding_"
        state[f"{module}A.{task}"] = torch.ones(SIZES.rank, SIZES.vocabulary)
        state[f"{module}B.{task}"] = torch.ones(SIZES.width, SIZES.rank)


REMEDY = r"Export one of the tasks, merged, with --task: retrieval, text-matching, code\."


@pytest.mark.parametrize(
    ("change", "config", "said"),
    [
        (_dora, {"use_dora": True}, rf"q_proj\.lora_A\S+: no LoRA of a linear layer\n[\s\S]*{REMEDY}"),
        (_whole, {}, rf"up_proj\.modules_to_save\.code\.weight: a whole weight of code alone\n{REMEDY}"),
        (_on_a_table, {}, rf"embed_tokens\.lora_embedding_A\.retrieval: no LoRA of a linear layer\n{REMEDY}"),
        (
            _without(r"layers\.1\.mlp\.up_proj\.lora_[AB]\.code"),
            {},
            rf"layers\.1\.mlp\.up_proj\.lora_A\.retrieval\.weight: there is none of this weight for code\n{REMEDY}",
        ),
        (_without(r"layers\.1\.mlp\.up_proj\.lora_B\.code"), {}, r"up_proj\.lora_A\.code\.weight: stored without its"),
        (_without(r"\.code\."), {}, "there is none of the task 'code' in its file, which has retrieval, text-match"),
        (
            _on_the_vision_tower,
            {},
            rf"cannot be chosen by row: \S+visual\.blocks\.0\.attn\.proj\.lora_A\.retrieval\.weight\. {REMEDY}",
        ),
    ],
    ids=["dora", "whole", "table", "lacking", "half", "task", "vision"],
)
def test_what_cannot_be_stacked(
    checkpoint: Path, tmp_path: Path, change: Callable[[State], None], config: dict[str, Any], said: str
) -> None:
    copy = changed(checkpoint, tmp_path, change, **config)
    with pytest.raises(ExportError, match=said):
        open_retriever(str(copy), RECIPE)


def test_the_vision_tower_of_one_task(checkpoint: Path, tmp_path: Path) -> None:
    """The remedy is one: merged, an adapter may change any weight."""
    copy = changed(checkpoint, tmp_path, _on_the_vision_tower)
    assert open_retriever(str(copy), RECIPE, settings=parse_settings([], "code")).checkpoint.weights.adapted()


def test_layers_without_adapters(checkpoint: Path, tmp_path: Path) -> None:
    """Those that have some are the checkpoint's to say; a step without any takes no index."""
    copy = changed(checkpoint, tmp_path, _without("multi_vector_projector|k_proj"))
    steps = {step.name: step for step in open_retriever(str(copy), RECIPE).steps}
    assert ADAPTER_INDEX in steps["language_model"].inputs
    assert ADAPTER_INDEX not in steps["late_head"].inputs
    names = {name for name, _ in steps["language_model"].build().named_parameters()}
    assert "layers.0.self_attn.q_proj.adapters.up.weight" in names
    assert not any("k_proj.adapters" in name for name in names)


def test_adapters_of_what_the_recipe_leaves_out(checkpoint: Path) -> None:
    with pytest.raises(
        ExportError, match=r"4 unused: \S+vector_projector\.lora_A\.retrieval\.weight, \S+lora_B\.retrieval"
    ):
        open_retriever(str(checkpoint), RECIPE, settings={"outputs.late": None})


def test_an_adapter_that_was_never_trained(checkpoint: Path, tmp_path: Path) -> None:
    """Its B is zero, as PEFT begins, and so it changes nothing."""

    def begin(state: State) -> None:
        for name in state:
            if "multi_vector_projector.lora_B" in name:
                state[name].zero_()

    opened = open_retriever(str(changed(checkpoint, tmp_path, begin)), RECIPE)
    assert isinstance(Towers(opened.steps, opened.checkpoint.weights)["late_head"], LateHead)


def test_the_flag_sets_the_field() -> None:
    assert parse_settings(["batch.text=2"], "code") == {"adapters.task": "code", "batch.text": 2}
    with pytest.raises(ExportError, match=r"--set gives adapters\.task, and so does --task"):
        parse_settings(["adapters.task=code"], "retrieval")
    with pytest.raises(ExportError, match=r"adapters\.task \(--task\) is 'code', and this system has no adapters of"):
        with_settings(load_recipe("colqwen2"), parse_settings([], "code"))
