"""Oddities of DSE on Qwen2-VL; everything else is in tests/contract."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from e2e.pages import draw_page
from periscope_export.recipes.loading import load_recipe
from periscope_testing.adapters import random_adapter, write_adapter
from periscope_testing.dse_qwen2 import DseReference
from periscope_testing.qwen2_vl import Form, Layout, Qwen2VLSizes, make_qwen2_vl
from periscope_testing.reference import Item
from systems.prepared import largest_difference, preparing

RECIPE = "dse_qwen2"
# As tevatron writes them, for Phi-3-V too.
TARGETS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "k_proj", "q_proj", "out_proj", "v_proj")
SIZES = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64)


def sharded_as_torch_saves(checkpoint: Path) -> None:
    """Write shards of safetensors as those that torch saves, and their index."""
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(sorted(set(index["weight_map"].values())), 1):
        tensors, file = load_file(checkpoint / shard), f"pytorch_model-{number:05}-of-00002.bin"
        torch.save(tensors, checkpoint / file)
        weight_map |= dict.fromkeys(tensors, file)
        (checkpoint / shard).unlink()
    (checkpoint / "model.safetensors.index.json").unlink()
    (checkpoint / "pytorch_model.bin.index.json").write_text(json.dumps({**index, "weight_map": weight_map}))


@pytest.mark.parametrize(("layout", "form"), [("old", "short"), ("new", "nested")])
def test_every_layout(tmp_path: Path, layout: Layout, form: Form) -> None:
    checkpoint = make_qwen2_vl(tmp_path / "checkpoint", SIZES, layout=layout, form=form)
    if form == "short":
        sharded_as_torch_saves(checkpoint)
    assert largest_difference(checkpoint, RECIPE, DseReference(checkpoint), tmp_path / "made") < 1e-5


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_run_of_tevatron_itself(tmp_path: Path) -> None:
    """A DoRA adapter on the modules that its targets find, without a generation prompt, by recipe fields."""
    peft, transformers = (importlib.import_module(name) for name in ("peft", "transformers"))
    base = make_qwen2_vl(tmp_path / "base", SIZES, layout="new")
    weights = {name: tensor for shard in base.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    targets = re.compile(r"model\.language_model\.layers\..*\.(q_proj|k_proj|v_proj|o_proj|down_proj)\.weight")
    modules = random_adapter(
        weights, targets, rank=16, deviation=0.05, generator=torch.Generator().manual_seed(3), dora=True
    )
    adapter = tmp_path / "adapter"
    write_adapter(adapter, str(base), modules, rank=16, lora_alpha=64, target_modules=list(TARGETS), dora=True)
    mine, prompts = tmp_path / "mine.yaml", load_recipe(RECIPE).preparation.prompts
    without = {
        role: {kind: prompt.replace("<|im_start|>assistant\n", "") for kind, prompt in words.items()}
        for role, words in prompts.items()
    }
    mine.write_text(json.dumps({"extends": RECIPE, "preparation": {"prompts": without}}))
    reference = DseReference(base)
    reference.generation = False
    whole = transformers.Qwen2VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    reference.model = peft.PeftModel.from_pretrained(whole, adapter).merge_and_unload().eval().model
    assert largest_difference(adapter, str(mine), reference, tmp_path / "made") < 1e-5
    reference.generation = True
    assert largest_difference(adapter, str(mine), reference, tmp_path / "made-with") > 1e-3


def test_pages_of_any_shape_are_stretched(tmp_path: Path) -> None:
    """No aspect ratio is refused, and no limit of the checkpoint is read."""
    checkpoint = make_qwen2_vl(tmp_path / "checkpoint", Qwen2VLSizes(vision_layers=1, mlp=64, max_pixels=78400))
    prepared, reference = preparing(checkpoint, RECIPE, tmp_path / "made"), DseReference(checkpoint)
    for size in ((3000, 9), (20, 17), (1000, 1500)):
        patches = prepared(Item(image=(page := draw_page(*size)), role="document")).patches
        assert patches is not None
        assert patches.grids == ((27, 27),)
        np.testing.assert_array_equal(patches.patches_PC, reference.pixels(page))
