"""Loading needs the tensors that the caller keeps, and one merge: never the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory counters of Linux")

ROWS, COLUMNS, RANK = 16384, 1024, 32
SIZE = ROWS * COLUMNS * 4  # of one weight: 64 MiB


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def weights() -> dict[str, torch.Tensor]:
    return {f"layers.{i}.weight": torch.full((ROWS, COLUMNS), float(i)) for i in range(4)}


def read(*arguments: str | Path) -> Any:
    command = [sys.executable, str(Path(__file__).with_name("reading.py")), *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_reading_costs_no_memory(base: Path, name: str) -> None:
    if name.endswith(".bin"):
        torch.save(weights(), base / name)
    else:
        save_file(weights(), base / name)
    found = read(base, "--weights", *weights())
    assert [total for _, total in found["weights"]] == [i * ROWS * COLUMNS for i in range(4)]
    assert found["growth"] < 0.25 * SIZE


@pytest.mark.parametrize("dora", [False, True])
def test_a_merge_costs_one_tensor(base: Path, tmp_path: Path, dora: bool) -> None:
    save_file(weights(), base / "model.safetensors")
    adapter = {"layers.1.lora_A.weight": torch.ones(RANK, COLUMNS), "layers.1.lora_B.weight": torch.ones(ROWS, RANK)}
    if dora:
        adapter["layers.1.lora_magnitude_vector"] = torch.ones(ROWS)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "use_dora": dora}
    (tmp_path / "adapter").mkdir()
    save_file(adapter, tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))

    found = read(tmp_path / "adapter", "--base", base, "--weights", "layers.1.weight")
    assert SIZE <= found["growth"] < 1.5 * SIZE
    assert found["weights"][0][0] == pytest.approx(1 / COLUMNS**0.5 if dora else 1 + RANK)
