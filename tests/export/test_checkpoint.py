"""Finding and reading checkpoints: every file layout, every place a base can be in, every way to be incomplete."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from periscope_export.checkpoint.reading import Checkpoint, open_checkpoint
from periscope_export.errors import ExportError

State = dict[str, Tensor]

STATE: State = {
    "model.embed_tokens.weight": torch.randn(6, 4).bfloat16(),
    "model.norm.weight": torch.randn(4).half(),
    "visual.proj.weight": torch.randn(3, 4),
    "visual.position_ids": torch.arange(5),
}
SHARDS = [list(STATE)[:2], list(STATE)[2:]]


def save(state: State, path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        save_file(state, path)


def save_whole(folder: Path, name: str) -> None:
    save(STATE, folder / name)


def save_shards(folder: Path, name: str) -> None:
    stem, _, kind = name.partition(".")
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(SHARDS, start=1):
        shard = f"{stem}-0000{number}-of-00002.{kind}"
        save({key: STATE[key] for key in keys}, folder / shard)
        weight_map |= dict.fromkeys(keys, shard)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def make_base(folder: Path, write: Callable[[Path, str], None] = save_whole, name: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "qwen2_vl"}')
    (folder / "tokenizer.json").write_text('{"of": "base"}')
    write(folder, name)
    return folder


def make_adapter(folder: Path, **config: Any) -> Path:
    """Doubles `visual.proj` along its first column."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1} | config))
    a = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    module = "base_model.model.visual.proj"
    save_file(
        {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": STATE["visual.proj.weight"][:, :1].contiguous()},
        folder / "adapter_model.safetensors",
    )
    return folder


def opened(*args: Any, **options: Any) -> Checkpoint:
    return open_checkpoint(*args, **{"canonical": str, **options})


def refusal(*args: Any, **options: Any) -> str:
    with pytest.raises(ExportError) as stopped:
        opened(*args, **options)
    return str(stopped.value)


@pytest.mark.parametrize("write", [save_whole, save_shards])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_every_file_layout_reads_the_same(tmp_path: Path, write: Callable[[Path, str], None], name: str) -> None:
    weights = opened(make_base(tmp_path / "base", write, name)).weights
    assert list(weights.keys()) == sorted(STATE)
    assert weights.adapted() == set()
    for key, tensor in STATE.items():
        assert weights.info(key) == (tuple(tensor.shape), tensor.dtype)
        assert weights.read(key).dtype == tensor.dtype
        assert torch.equal(weights.read(key), tensor)
    for ask in (weights.read, weights.info):
        with pytest.raises(KeyError):
            ask("lm_head.weight")


def test_safetensors_win_over_bin(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    (base / "pytorch_model.bin").write_bytes(b"not read")
    assert torch.equal(opened(base).weights.read("visual.proj.weight"), STATE["visual.proj.weight"])


def test_names_are_canonical(tmp_path: Path) -> None:
    weights = opened(make_base(tmp_path / "base"), canonical=lambda name: f"vlm.{name}").weights
    assert list(weights) == sorted(f"vlm.{name}" for name in STATE)
    assert torch.equal(weights.read("vlm.visual.position_ids"), torch.arange(5))


def test_two_names_of_one_weight_are_refused(tmp_path: Path) -> None:
    message = refusal(make_base(tmp_path / "base"), canonical=lambda name: name.split(".")[0])
    assert "model.embed_tokens.weight and model.norm.weight" in message
    assert "visual.position_ids and visual.proj.weight" in message


WRAPPED = {
    "compile": "_orig_mod.{}",
    "DDP": "module.{}",
    "DDP around compile": "module._orig_mod.{}",
    "compile around DDP": "_orig_mod.module.{}",
    "FSDP and activation checkpoints": "_fsdp_wrapped_module.{}",
    "PEFT": "base_model.model.{}",
    "all of them": "_orig_mod.module.base_model.model.base_model.model.{}",
}


def wrapped(form: str) -> State:
    """The weights with something around the whole, and around a module."""
    inside = {"model.norm.weight": "model._orig_mod.norm._checkpoint_wrapped_module.weight"}
    return {form.format(inside.get(name, name)): tensor for name, tensor in STATE.items()}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("form", WRAPPED.values(), ids=WRAPPED.keys())
def test_what_training_wraps_around_modules_is_no_part_of_a_name(tmp_path: Path, form: str, name: str) -> None:
    base = make_base(tmp_path / "base", lambda folder, name: save(wrapped(form), folder / name), name)
    weights = opened(base).weights
    assert list(weights) == sorted(STATE)
    assert all(torch.equal(weights.read(key), tensor) for key, tensor in STATE.items())
    # Messages say what the file says, also of what it lacks.
    assert weights.stored_name("visual.proj.weight") == form.format("visual.proj.weight")
    assert weights.stored_name("visual.proj.bias") == form.format("visual.proj.bias")


def test_a_weight_with_and_without_a_wrapper_is_refused(tmp_path: Path) -> None:
    state = STATE | {"module.visual.proj.weight": torch.zeros(3, 4)}
    message = refusal(make_base(tmp_path / "base", lambda folder, name: save(state, folder / name)))
    assert "one weight under two stored names: module.visual.proj.weight and visual.proj.weight" in message


def test_the_state_of_a_live_adapter_is_refused(tmp_path: Path) -> None:
    """Full weights and an adapter in one file, as `torch.save(model.state_dict())` writes a PEFT model."""
    state = {f"base_model.model.{name}": tensor for name, tensor in STATE.items() if name != "visual.proj.weight"}
    state |= {
        f"base_model.model.visual.proj.{part}": torch.ones(1) for part in ("base_layer.weight", "lora_A.b.weight")
    }
    message = refusal(make_base(tmp_path / "base", lambda folder, name: save(state, folder / name)))
    assert "base holds an adapter that is not merged: base_model.model.visual.proj.base_layer.weight, " in message
    assert "merge_and_unload" in message


def index(folder: Path) -> Path:
    return folder / "model.safetensors.index.json"


def lose_shards(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.unlink()


def lose_a_key_of_the_index(folder: Path) -> None:
    content = json.loads(index(folder).read_text())
    del content["weight_map"]["model.norm.weight"]
    index(folder).write_text(json.dumps(content))


def lose_a_key_of_a_shard(folder: Path) -> None:
    save_file({"visual.position_ids": torch.arange(5)}, folder / "model-00002-of-00002.safetensors")


def point_elsewhere(folder: Path) -> None:
    save_file({"a": torch.ones(1)}, folder.parent / "outside.safetensors")
    index(folder).write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))


def cut_short(folder: Path) -> None:
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8])


DAMAGED: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "shards": (lose_shards, ["lacks: model-00001-of-00002.safetensors, model-00002-of-00002.safetensors", "again"]),
    "index": (lose_a_key_of_the_index, ["model.norm.weight in model-00001-of-00002.safetensors is not in the index"]),
    "shard": (lose_a_key_of_a_shard, ["visual.proj.weight is not in model-00002-of-00002.safetensors"]),
    "path": (point_elsewhere, ["lacks: ../outside.safetensors"]),
    "truncated": (cut_short, ["model-00001-of-00002.safetensors cannot be read", "again"]),
    "no shard": (
        lambda folder: index(folder).write_text('{"weight_map": {"a": 3}}'),
        ["model.safetensors.index.json is not a weight index"],
    ),
    "no index": (lambda folder: index(folder).write_text("[]"), ["model.safetensors.index.json is not a weight index"]),
    "no weights": (lambda folder: index(folder).unlink(), ["holds no weights", "pytorch_model.bin.index.json"]),
    "no config": (lambda folder: (folder / "config.json").unlink(), ["neither config.json nor adapter_config.json"]),
    "broken config": (lambda folder: (folder / "config.json").write_text("{"), ["config.json is not JSON"]),
    "listed config": (lambda folder: (folder / "config.json").write_text("[]"), ["config.json holds no JSON object"]),
}


@pytest.mark.parametrize(("damage", "named"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], Any], named: list[str]) -> None:
    base = make_base(tmp_path / "base", save_shards)
    damage(base)
    message = refusal(base)
    assert all(part in message for part in named), message


class Code:
    def __reduce__(self) -> Any:
        return (print, ("run while loading",))


BINARIES: dict[str, tuple[Any, str]] = {
    "code": (Code(), "cannot be read"),
    "training state": ({"state_dict": {}, "epoch": 3}, "more than named tensors: state_dict, epoch"),
    "list": ([torch.ones(1)], "more than named tensors: list"),
}


@pytest.mark.parametrize(("content", "named"), BINARIES.values(), ids=BINARIES.keys())
def test_bin_holds_named_tensors_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, named: str
) -> None:
    base = make_base(tmp_path / "base", lambda folder, name: torch.save(content, folder / name), "pytorch_model.bin")
    assert named in refusal(base)
    assert "run while loading" not in capsys.readouterr().out


def test_bin_of_the_old_kind_is_refused(tmp_path: Path) -> None:
    def write(folder: Path, name: str) -> None:
        torch.save(STATE, folder / name, _use_new_zipfile_serialization=False)

    assert "save it again as safetensors" in refusal(make_base(tmp_path / "base", write, "pytorch_model.bin"))


@pytest.mark.parametrize(
    "config", [{"quantization_config": {"bits": 4}}, {"text_config": {"quantization_config": {"a": 1}}}]
)
def test_quantised_config_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    base = make_base(tmp_path / "base")
    (base / "config.json").write_text(json.dumps(config))
    assert "base is quantised (quantization_config" in refusal(base)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_quantised_weights_are_all_named(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    state = STATE | {"a.weight": torch.ones(2).to(dtype), "b.weight": torch.ones(2).to(dtype)}
    base = make_base(tmp_path / "base", lambda folder, name: save(state, folder / name), name)
    assert "8-bit weights a.weight, b.weight" in refusal(base)


def assert_adapted(checkpoint: Checkpoint) -> None:
    before, after = STATE["visual.proj.weight"], checkpoint.weights.read("visual.proj.weight")
    assert checkpoint.weights.adapted() == {"visual.proj.weight"}
    torch.testing.assert_close(after, before * torch.tensor([2.0, 1.0, 1.0, 1.0]))


def test_base_is_given(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base_model_name_or_path="elsewhere/entirely")
    assert_adapted(opened(adapter, base))
    assert_adapted(opened(str(adapter), str(base)))


@pytest.mark.parametrize("name", ["../base", "base", "{}/base"])
def test_base_is_named_by_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make_base(tmp_path / "base")
    # The revision is one of the hub's, and says nothing about a directory.
    adapter = make_adapter(tmp_path / "adapter", base_model_name_or_path=name.format(tmp_path), revision="main")
    monkeypatch.chdir(tmp_path)
    assert_adapted(opened(adapter))


def test_base_beside_the_adapter_wins_over_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(tmp_path / "adapter", base_model_name_or_path="base")
    make_base(adapter / "base")
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    assert_adapted(opened(adapter))


def test_adapter_names_no_base(tmp_path: Path) -> None:
    assert "names no base. Give it with --base" in refusal(make_adapter(tmp_path / "adapter"))


def test_adapter_is_its_own_base(tmp_path: Path) -> None:
    assert "its own base" in refusal(make_adapter(tmp_path / "adapter", base_model_name_or_path="."))


def test_base_is_missing(tmp_path: Path) -> None:
    message = refusal(make_adapter(tmp_path / "adapter", base_model_name_or_path="/gone/base"))
    assert "its base '/gone/base'" in message
    assert "--base" in message


def test_full_weights_take_no_base(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    assert "base is no adapter and needs no base" in refusal(base, base)


def test_files_come_from_the_adapter_first_and_the_config_from_the_base(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter")
    (base / "vocab.json").write_text("{}")
    (adapter / "config.json").write_text('{"model_type": "other"}')
    (adapter / "tokenizer.json").write_text('{"of": "adapter"}')
    checkpoint = opened(adapter, base)
    assert checkpoint.config == checkpoint.json("config.json") == {"model_type": "qwen2_vl"}
    assert checkpoint.json("tokenizer.json") == {"of": "adapter"}
    assert checkpoint.file("vocab.json") == base / "vocab.json"
    assert checkpoint.file("merges.txt") is None
    assert checkpoint.json("preprocessor_config.json") is None


def test_description_shows_no_path(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--vidore--colqwen2-base" / "snapshots" / ("0123456789" * 4)
    checkpoint = opened(make_adapter(tmp_path / "mine"), make_base(snapshot))
    assert checkpoint.description == "mine (adapter) on vidore/colqwen2-base@012345678901"
