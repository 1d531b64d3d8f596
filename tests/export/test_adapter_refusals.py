"""Every way in which an adapter cannot be merged stops with all the keys or options that are wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from periscope_export.checkpoint.reading import open_checkpoint
from periscope_export.errors import ExportError

State = dict[str, Tensor]

Q = "base_model.model.model.layers.0.q_proj"
OUT = "base_model.model.model.layers.0.o_proj"
R = "base_model.model.model.layers.1.q_proj"
SOUND: State = {
    f"{Q}.lora_A.weight": torch.ones(4, 8),
    f"{Q}.lora_B.weight": torch.ones(12, 4),
    f"{R}.lora_A.weight": torch.ones(4, 8),
    f"{R}.lora_B.weight": torch.ones(12, 4),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    base: State = {}
    for layer in ("model.layers.0", "model.layers.1"):
        base |= {f"{layer}.q_proj.weight": torch.ones(12, 8), f"{layer}.q_proj.bias": torch.ones(12)}
        base |= {f"{layer}.o_proj.weight": torch.ones(8, 12), f"{layer}.norm.weight": torch.ones(8)}
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
    save_file(base, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text("{}")
    return tmp_path


def refusal(folder: Path, state: State | None = None, layout: str = "model.", **options: Any) -> str:
    """The reason why an adapter is refused."""
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4} | options
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    save_file(SOUND if state is None else state, folder / "adapter" / "adapter_model.safetensors")
    with pytest.raises(ExportError) as stopped:
        open_checkpoint(
            folder / "adapter", folder / "base", canonical=lambda name: re.sub(r"^language_model\.", layout, name)
        )
    return str(stopped.value)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
    "no method": ({"peft_type": None}, "peft_type None"),
    "parameters": ({"target_parameters": ["experts.up"]}, "target_parameters"),
    "layers": ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
    "tokens": ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    "activated": ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
    "quantised": ({"use_qalora": True}, "use_qalora"),
    "blocks": ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
    "an option of tomorrow": ({"use_tomorrow": True}, "use_tomorrow = True"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    "olora": ({"init_lora_weights": "olora"}, "olora"),
    "corda": ({"init_lora_weights": "corda"}, "corda"),
    "loftq": ({"init_lora_weights": "loftq"}, "loftq"),
    "lora_ga": ({"init_lora_weights": "lora_ga"}, "lora_ga"),
    "rank": ({"r": None}, "r is None, no number"),
    "alpha": ({"lora_alpha": "x"}, "lora_alpha is 'x', no number"),
    "patterns": ({"alpha_pattern": {"q_proj": None}}, "no numbers by the names of modules"),
    "pattern": ({"rank_pattern": {"q_proj(": 3}}, "'q_proj('"),
}


@pytest.mark.parametrize(("options", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_options_that_cannot_be_merged(folder: Path, options: dict[str, Any], named: str) -> None:
    message = refusal(folder, **options)
    assert "adapter_config.json asks for what cannot be merged" in message
    assert named in message


def test_all_refused_options_are_named_at_once(folder: Path) -> None:
    message = refusal(folder, use_qalora=True, target_parameters=["a"], init_lora_weights="pissa")
    assert all(name in message for name in ("use_qalora", "target_parameters", "pissa"))


MISFITS: dict[str, tuple[State, dict[str, str]]] = {
    "no module in the base": (
        {f"{Q}s.lora_A.weight": torch.ones(4, 8), f"{Q}s.lora_B.weight": torch.ones(12, 4)},
        {f"{Q}s.lora_A.weight": "the base has no model.layers.0.q_projs.weight", f"{Q}s.lora_B.weight": "no"},
    ),
    "shape of A": (
        {f"{Q}.lora_A.weight": torch.ones(4, 9)},
        {f"{Q}.lora_A.weight": r"shape \[4, 9\].* needs \[4, 8\]"},
    ),
    "shape of B": ({f"{Q}.lora_B.weight": torch.ones(8, 4)}, {f"{Q}.lora_B.weight": r"needs \[12, 4\]"}),
    "rank": (
        {f"{Q}.lora_A.weight": torch.ones(5, 8), f"{Q}.lora_B.weight": torch.ones(12, 5)},
        {f"{Q}.lora_A.weight": "rank 4", f"{Q}.lora_B.weight": "rank 4"},
    ),
    "unknown part": ({f"{Q}.lora_C.weight": torch.ones(1)}, {f"{Q}.lora_C.weight": "not a key"}),
    "bias of A": ({f"{Q}.lora_A.bias": torch.ones(4)}, {f"{Q}.lora_A.bias": "not a key"}),
    "unknown weight": ({f"{Q}.gate": torch.ones(1)}, {f"{Q}.gate": "the base has no"}),
    "copy of the original": (
        {f"{Q}.original_module.weight": torch.ones(1)},
        {f"{Q}.original_module.weight": "not a key"},
    ),
    "no module": ({"steps": torch.ones(1)}, {"steps": "not a key"}),
    "magnitude without dora": (
        {f"{Q}.lora_magnitude_vector": torch.ones(12)},
        {f"{Q}.lora_magnitude": "use_dora is not"},
    ),
    "two kinds": (
        {f"{Q}.lora_embedding_A": torch.ones(4, 8)},
        {f"{Q}.lora_A.weight": "mixed", f"{Q}.lora_B.weight": "mixed", f"{Q}.lora_embedding_A": "without its lora_em"},
    ),
    "stored whole as well": ({f"{Q}.weight": torch.ones(12, 8)}, {f"{Q}.weight": "stored whole, beside"}),
    "several adapters": (
        {f"{OUT}.lora_A.one.weight": torch.ones(4, 12), f"{OUT}.lora_B.two.weight": torch.ones(8, 4)},
        {f"{OUT}.lora_A.one.weight": "'one', one of several", f"{OUT}.lora_B.two.weight": "'two', one of several"},
    ),
    "bias without one in the base": (
        {f"{OUT}.bias": torch.ones(8)},
        {f"{OUT}.bias": "modules_to_save does not name it"},
    ),
    "shape of a bias": ({f"{Q}.bias": torch.ones(3)}, {f"{Q}.bias": r"shape \[3\], but the base has \[12\]"}),
    "bias of B": ({f"{Q}.lora_B.bias": torch.ones(3)}, {f"{Q}.lora_B.bias": r"shape \[3\].* needs \[12\]"}),
}


@pytest.mark.parametrize(("keys", "reasons"), MISFITS.values(), ids=MISFITS.keys())
def test_keys_that_do_not_fit(folder: Path, keys: State, reasons: dict[str, str]) -> None:
    message = refusal(folder, SOUND | keys)
    for key, reason in reasons.items():
        assert re.search(rf"^  {re.escape(key)}.*({reason})", message, re.MULTILINE), message
    assert not any(f"\n  {key}" in message for key in SOUND if key not in reasons)


def test_every_misfit_is_listed_at_once(folder: Path) -> None:
    wrong: State = {}
    for keys, _ in (MISFITS[name] for name in ("no module in the base", "shape of A", "unknown part", "no module")):
        wrong |= keys
    left = {key: tensor for key, tensor in SOUND.items() if key != f"{R}.lora_B.weight"}
    message = refusal(folder, left | wrong)
    assert all(f"\n  {key}: " in message for key in [*wrong, f"{R}.lora_A.weight"]), message
    assert "stored without its lora_B" in message


def test_dora_without_magnitudes(folder: Path) -> None:
    assert refusal(folder, use_dora=True).count("stored without its lora_magnitude_vector") == len(SOUND)


def test_two_layouts_in_one_adapter(folder: Path) -> None:
    other = f"{Q.replace('model.layers', 'language_model.layers')}.lora_A.weight"
    message = refusal(folder, SOUND | {other: torch.ones(4, 8)})
    assert f"{Q}.lora_A.weight: the same part of the same weight as {other}" in message


def test_what_is_wrapped_around_a_module_makes_no_other_key(folder: Path) -> None:
    other = f"module.{Q}.lora_A.weight"
    message = refusal(folder, SOUND | {other: torch.ones(4, 8)})
    assert f"{other}: the same part of the same weight as {Q}.lora_A.weight" in message


def test_an_adapter_without_a_file_of_weights(folder: Path) -> None:
    (folder / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ExportError, match=r"adapter_model\.safetensors or .*adapter_model\.bin"):
        open_checkpoint(folder / "adapter", folder / "base", canonical=str)
