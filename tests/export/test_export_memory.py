"""An export keeps less memory than the checkpoint takes on disk and what Python and torch need, in any precision.

Weights in float32 are twice as large as stored in bf16, and are copied from engine to engine; they stay in files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from e2e.processor import EXACT_INT8
from periscope_perf.memory import PeakMemory, memory
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the memory counters of Linux")

# 500 MB in bf16, nearly all of it in the language model, which takes twice that in fp32.
SIZES = Qwen2VLSizes(
    vision_layers=1,
    language_layers=1,
    heads=12,
    kv_heads=2,
    mlp=8960,
    vocabulary=130_000,
    deviation=0.02,
    dtype=torch.bfloat16,
)
# Of Python with torch and its exporter, and of the samples' activations.
ALLOWANCE = 430_000_000


@pytest.fixture(scope="module")
def checkpoint() -> Iterator[Path]:
    # pytest would keep what its own folders hold.
    with tempfile.TemporaryDirectory() as folder:
        yield make_colqwen2(Path(folder) / "checkpoint", SIZES, adapter=None)


@pytest.mark.parametrize(
    ("precision", "engine"),
    [
        ("fp32", "onnxruntime"),
        ("fp16", "onnxruntime"),
        pytest.param(*("int8", "openvino"), marks=pytest.mark.skipif(not EXACT_INT8, reason="a CPU without VNNI")),
    ],
)
def test_an_export_keeps_no_weights_in_memory(checkpoint: Path, precision: str, engine: str) -> None:
    output = checkpoint.with_name(precision)
    command: list[str | Path] = [Path(sys.executable).parent / "periscope", "export", checkpoint]
    command += ["--recipe", "colqwen2", "--precision", precision, "--engine", engine, "--output", output]
    with (
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process,
        PeakMemory(lambda: [process.pid]) as peak,
    ):
        _, said = process.communicate()
    assert process.returncode == 0, said
    size = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    assert peak.anonymous < size + ALLOWANCE
    assert {path.name for path in checkpoint.parent.iterdir()} <= {"checkpoint", "fp32", "fp16", "int8"}


def test_memory_is_counted_by_its_kind() -> None:
    anonymous, resident = memory(os.getpid())
    assert 0 < anonymous < resident
    assert memory(2**22 + 1) == (0, 0)
