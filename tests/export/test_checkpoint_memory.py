"""Loading needs the tensors that the caller keeps, and one merge: never the file."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from periscope_export.checkpoint import open_checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory counters of Linux")

ROWS, COLUMNS, RANK = 16384, 1024, 32
SIZE = ROWS * COLUMNS * 4  # of one weight: 64 MiB


def anonymous_bytes() -> int:
    """Memory of this process that is not pages of a file: what the system cannot drop."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


class Peak:
    """Largest growth of anonymous memory while the block runs, sampled every millisecond."""

    def __enter__(self) -> Peak:
        self.start, self.growth, self._over = anonymous_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.is_set():
            self.growth = max(self.growth, anonymous_bytes() - self.start)
            time.sleep(0.001)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def weights() -> dict[str, torch.Tensor]:
    return {f"layers.{i}.weight": torch.full((ROWS, COLUMNS), float(i)) for i in range(4)}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_reading_costs_no_memory(base: Path, name: str) -> None:
    if name.endswith(".bin"):
        torch.save(weights(), base / name)
    else:
        save_file(weights(), base / name)
    with Peak() as reading:
        opened = open_checkpoint(base, canonical=str).weights
        total = sum(float(opened.read(name).sum()) for name in opened)
    assert total == 6 * ROWS * COLUMNS
    assert reading.growth < 0.25 * SIZE


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
    del adapter

    opened = open_checkpoint(tmp_path / "adapter", base, canonical=str).weights
    with Peak() as merging:
        merged = opened.read("layers.1.weight")
    assert SIZE <= merging.growth < 1.5 * SIZE
    assert float(merged[0, 0]) == pytest.approx(1 / COLUMNS**0.5 if dora else 1 + RANK)
