"""Merged adapters equal what PEFT makes of the same files, in every form in which the files are found."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from periscope_export.checkpoint.reading import Weights, open_checkpoint
from periscope_testing.torchvision_operators import declare_torchvision_operators

# PEFT warns of what these tests do on purpose: save small modules that are no transformers models.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def peft() -> ModuleType:
    declare_torchvision_operators()
    return importlib.import_module("peft")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(8, 12)
        self.o_proj = nn.Linear(12, 8, bias=False)
        self.norm = nn.LayerNorm(8)


class Retriever(nn.Module):
    """Names and kinds of layer as in a published checkpoint, in a few hundred numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"embed_tokens": nn.Embedding(20, 8), "layers": nn.ModuleList([Layer(), Layer()])})
        self.patch_embed = nn.Conv3d(3, 8, (2, 2, 2))
        self.custom_text_proj = nn.Linear(8, 4)


class Saved:
    """A base and an adapter on disk."""

    def __init__(self, folder: Path, base: nn.Module) -> None:
        self.base, self.adapter = folder / "base", folder / "adapter"
        self.base.mkdir()
        (self.base / "config.json").write_text("{}")
        save_file({name: tensor.clone() for name, tensor in base.state_dict().items()}, self.base / "model.safetensors")

    @property
    def adapter_file(self) -> Path:
        return self.adapter / "adapter_model.safetensors"

    def rewrite(self, state: State | None = None, **options: Any) -> None:
        if state is not None:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, self.adapter_file)
        config = self.adapter / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | options))

    def keys(self) -> State:
        return load_file(self.adapter_file)

    def open(self, **options: Any) -> Weights:
        return open_checkpoint(self.adapter, self.base, **{"canonical": str, **options}).weights

    def merged(self, **options: Any) -> State:
        weights = self.open(**options)
        return {name: weights.read(name) for name in weights}


def train(peft: ModuleType, folder: Path, base: nn.Module, **options: Any) -> Saved:
    """Save `base` and an adapter on it in which every trained number is random."""
    saved = Saved(folder, base)
    model = peft.get_peft_model(base, peft.LoraConfig(**{"r": 4, "lora_alpha": 12} | options))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_().add_(0.5)
    model.save_pretrained(folder / "adapter")
    return saved


def merge_with_peft(peft: ModuleType, saved: Saved, base: nn.Module) -> State:
    base.load_state_dict(load_file(saved.base / "model.safetensors"))
    merged = peft.PeftModel.from_pretrained(base, saved.adapter).merge_and_unload()
    return dict(merged.state_dict())


def assert_equal(ours: State, theirs: State) -> None:
    assert ours.keys() == theirs.keys()
    far = [name for name, tensor in theirs.items() if not torch.allclose(ours[name], tensor, rtol=1e-5, atol=2e-6)]
    assert not far


def changed(before: State, after: State) -> set[str]:
    return {name for name in after if name not in before or not torch.equal(before[name].float(), after[name].float())}


LINEAR = ["q_proj", "o_proj", "custom_text_proj"]
CASES: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": LINEAR},
    "the regular expression of colqwen2": {
        "target_modules": r"(.*(model).*(q_proj|o_proj).*$|.*(custom_text_proj).*$)",
        "init_lora_weights": "gaussian",
    },
    "rslora": {"target_modules": LINEAR, "use_rslora": True},
    "patterns": {
        "target_modules": LINEAR,
        "rank_pattern": {"layers.0.q_proj": 2, r"model\.layers\.1\..*": 6, "ext_proj": 5},
        "alpha_pattern": {"q_proj": 3, "^model.layers.1.o_proj": 7, "rs.0.o_proj": 9},
    },
    "patterns and rslora": {"target_modules": LINEAR, "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "dora": {"target_modules": LINEAR, "use_dora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding with dora": {"target_modules": ["embed_tokens"], "use_dora": True, "rank_pattern": {"embed_tokens": 3}},
    "convolution": {"target_modules": ["patch_embed"]},
    "convolution with dora": {"target_modules": ["patch_embed"], "use_dora": True},
    "all biases": {"target_modules": LINEAR, "bias": "all"},
    "adapted biases": {"target_modules": LINEAR, "bias": "lora_only"},
    "bias of the adapter": {"target_modules": ["q_proj", "custom_text_proj"], "lora_bias": True},
    "bias of the adapter and all biases": {"target_modules": ["q_proj"], "lora_bias": True, "bias": "all"},
    "modules to save": {"target_modules": ["q_proj"], "modules_to_save": ["custom_text_proj", "norm"]},
    "modules to save that hold modules": {"target_modules": ["q_proj"], "modules_to_save": ["layers.1"]},
    "orthogonal start": {"target_modules": LINEAR, "init_lora_weights": "orthogonal"},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_merge_equals_peft(peft: ModuleType, tmp_path: Path, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    saved = train(peft, tmp_path, Retriever(), **options)
    theirs = merge_with_peft(peft, saved, Retriever())
    assert_equal(saved.merged(), theirs)
    stored = load_file(saved.base / "model.safetensors")
    assert changed(stored, theirs)
    assert saved.open().adapted() == changed(stored, theirs)


def test_fan_in_fan_out_equals_peft(peft: ModuleType, tmp_path: Path) -> None:
    from transformers.pytorch_utils import Conv1D

    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.square = Conv1D(12, 8), Conv1D(8, 8)

    for dora in (False, True):
        folder = tmp_path / str(dora)
        folder.mkdir()
        options = {"target_modules": ["wide", "square"], "fan_in_fan_out": True, "use_dora": dora}
        saved = train(peft, folder, Transposed(), **options)
        assert_equal(saved.merged(), merge_with_peft(peft, saved, Transposed()))


@pytest.mark.parametrize("dora", [False, True])
def test_half_precision_is_merged_in_fp32(peft: ModuleType, tmp_path: Path, dora: bool) -> None:
    saved = train(peft, tmp_path, Retriever().bfloat16(), target_modules=["q_proj", "embed_tokens"], use_dora=dora)
    saved.rewrite({name: tensor.bfloat16() for name, tensor in saved.keys().items()})
    ours = saved.merged()
    theirs = merge_with_peft(peft, saved, Retriever().float())
    assert {name for name, tensor in ours.items() if tensor.dtype == torch.float32} == saved.open().adapted()
    assert_equal({name: tensor.float() for name, tensor in ours.items()}, theirs)
    for name, tensor in ours.items():
        assert saved.open().info(name) == (tuple(tensor.shape), tensor.dtype)


def test_file_of_torch_tensors(peft: ModuleType, tmp_path: Path) -> None:
    saved = train(peft, tmp_path, Retriever(), target_modules=LINEAR)
    expected = saved.merged()
    torch.save(saved.keys(), saved.adapter / "adapter_model.bin")
    saved.adapter_file.unlink()
    assert_equal(saved.merged(), expected)


def spell(pattern: str, replacement: str) -> Any:
    return lambda key: re.sub(pattern, replacement, key)


SPELLINGS = {
    "adapter's name": spell(r"(lora_[AB])\.", r"\1.default."),
    "another adapter's name": spell(r"(lora_[AB])\.", r"\1.lora_A_retrieval."),
    "name of a magnitude": spell(r"(lora_magnitude_vector)$", r"\1.default"),
    "weight of a magnitude": spell(r"(lora_magnitude_vector)$", r"\1.weight"),
    "name and weight of a magnitude": spell(r"(lora_magnitude_vector)$", r"\1.default.weight"),
    "name of an embedding": spell(r"(lora_embedding_[AB])$", r"\1.default"),
    "module to save": spell(r"(custom_text_proj)\.", r"\1.modules_to_save.default."),
    "module to save without a name": spell(r"(custom_text_proj)\.", r"\1.modules_to_save."),
    "no prefix": spell(r"^base_model\.model\.", ""),
    "compiled": spell(r"^base_model\.model\.", "base_model.model._orig_mod."),
    "compiled and wrapped by DDP around PEFT": spell(r"^", "module._orig_mod."),
    "a compiled module": spell(r"(q_proj|custom_text_proj|embed_tokens)\.", r"_orig_mod.\1._orig_mod."),
    "FSDP": spell(r"layers\.(\d)", r"_fsdp_wrapped_module.layers.\1._fsdp_wrapped_module._checkpoint_wrapped_module"),
    "PEFT in PEFT": spell(r"^", "base_model.model."),
}


@pytest.mark.parametrize("rename", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_spelling_of_keys(peft: ModuleType, tmp_path: Path, rename: Any) -> None:
    saved = train(
        peft,
        tmp_path,
        Retriever(),
        target_modules=["q_proj", "embed_tokens"],
        modules_to_save=["custom_text_proj"],
        use_dora=True,
    )
    expected, keys = saved.merged(), saved.keys()
    renamed = {rename(key): tensor for key, tensor in keys.items()}
    assert renamed.keys() != keys.keys()
    saved.rewrite(renamed)
    assert_equal(saved.merged(), expected)


def old_layout(name: str) -> str:
    """The canonical name of the tests for both layouts of Qwen2-VL."""
    return re.sub(r"^(model\.)?language_model\.", "model.", name)


@pytest.mark.parametrize("layout", ["model.language_model.", "language_model."])
def test_adapter_and_base_of_different_layouts(peft: ModuleType, tmp_path: Path, layout: str) -> None:
    saved = train(peft, tmp_path, Retriever(), target_modules=LINEAR, alpha_pattern={"layers.0.q_proj": 5})
    expected = saved.merged()
    prefix = "base_model.model."
    saved.rewrite({key.replace(f"{prefix}model.", f"{prefix}{layout}"): tensor for key, tensor in saved.keys().items()})
    assert_equal(saved.merged(canonical=old_layout), expected)


def test_base_layer_in_the_adapter_replaces_the_base_and_is_adapted(peft: ModuleType, tmp_path: Path) -> None:
    saved = train(peft, tmp_path, Retriever(), target_modules=["embed_tokens"])
    own = torch.randn(20, 8)
    delta = (
        saved.merged()["model.embed_tokens.weight"]
        - load_file(saved.base / "model.safetensors")["model.embed_tokens.weight"]
    )
    saved.rewrite(saved.keys() | {"base_model.model.model.embed_tokens.base_layer.weight": own})
    torch.testing.assert_close(saved.merged()["model.embed_tokens.weight"], own + delta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_no_adapter_changes_are_the_stored_ones(
    peft: ModuleType, tmp_path: Path, dtype: torch.dtype
) -> None:
    saved = train(peft, tmp_path, Retriever().to(dtype), target_modules=["q_proj"])
    before = load_file(saved.base / "model.safetensors")
    weights = saved.open()
    first, second = ({name: weights.read(name).clone() for name in weights} for _ in range(2))
    assert not changed(first, second)  # a merge must not write into the mapped base
    assert changed(before, first) == weights.adapted() == {f"model.layers.{i}.q_proj.weight" for i in (0, 1)}
    assert all(first[name].dtype == dtype for name in before.keys() - weights.adapted())


def test_adapter_of_an_adapter(peft: ModuleType, tmp_path: Path) -> None:
    first = train(peft, tmp_path, Retriever(), target_modules=["q_proj"], modules_to_save=["custom_text_proj"])
    (tmp_path / "second").mkdir()
    state = first.merged()
    middle = Retriever()
    middle.load_state_dict(state)
    second = train(peft, tmp_path / "second", middle, target_modules=LINEAR, use_dora=True)
    expected = second.merged()
    first.rewrite(base_model_name_or_path=str(first.base))
    opened = open_checkpoint(second.adapter, first.adapter, canonical=str)
    assert_equal({name: opened.weights.read(name) for name in opened.weights}, expected)
    assert opened.description == "adapter (adapter) on adapter (adapter) on base"


def test_saved_module_that_the_base_lacks_is_added(peft: ModuleType, tmp_path: Path) -> None:
    saved = train(peft, tmp_path, Retriever(), target_modules=["q_proj"], modules_to_save=["custom_text_proj"])
    base = load_file(saved.base / "model.safetensors")
    save_file({k: v for k, v in base.items() if "custom_text_proj" not in k}, saved.base / "model.safetensors")
    weights = saved.open()
    assert weights.info("custom_text_proj.weight") == ((4, 8), torch.float32)
    assert torch.equal(weights.read("custom_text_proj.bias"), saved.keys()["base_model.model.custom_text_proj.bias"])
