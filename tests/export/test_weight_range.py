"""Weights that a precision cannot hold stop an export, also those that no sample reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from periscope_export import exporter
from periscope_export.engines import ENGINES
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_export.graphs.precision import Precision
from periscope_export.graphs.weight_range import largest_weights, require_range
from periscope_export.models.steps import Step
from periscope_runtime.paths import TEXT
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes

EMBEDDINGS = "model.embed_tokens.weight"
UNREAD = slice(1000, 1004)  # no token of the samples


def module_of(value: float) -> nn.Module:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(torch.tensor([[1.0, 2.0], [value, 0.5]])))
    module.register_parameter("bias", nn.Parameter(torch.tensor([0.25])))
    return module


STEP = Step("tower", lambda: module_of(0), "tower.", (), (), paths=(TEXT,))


@pytest.mark.parametrize(
    ("precision", "value"),
    [
        *(("fp16", 65504.0), ("fp16", -65519.0), ("int8", 6e4), ("fp8", -6e4)),
        *(("bf16", 4e5), ("bf16", 3.38e38), ("fp32", 3.4e38)),
    ],
)
def test_weights_in_range_pass(precision: Precision, value: float) -> None:
    require_range(STEP, module_of(value), precision)


@pytest.mark.parametrize(
    ("precision", "value", "wider"),
    [
        *(("fp16", 65520.0, "bf16"), ("fp16", -4e5, "bf16"), ("int8", 4e5, "bf16"), ("fp8", 4e5, "bf16")),
        *(("fp16", 3.4e38, "fp32"), ("bf16", -3.4e38, "fp32")),
    ],
)
def test_weights_out_of_range_are_named(precision: Precision, value: float, wider: Precision) -> None:
    with pytest.raises(ExportError) as refused:
        require_range(STEP, module_of(value), precision)
    assert f"{precision} holds numbers up to" in str(refused.value)
    assert f"tower.weight (up to {abs(value):.4g}). Export the checkpoint in {wider}." in str(refused.value)
    assert "tower.bias" not in str(refused.value)
    # The precision that is said to be wide enough is so.
    require_range(STEP, module_of(value), wider)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_precision_holds_what_is_no_number(value: float) -> None:
    assert largest_weights(module_of(2.5)) == {"weight": 2.5, "bias": 0.25}
    for precision in ("fp16", "bf16", "fp32"):
        with pytest.raises(ExportError, match="no precision holds them"):
            require_range(STEP, module_of(value), precision)


def test_every_engine_says_what_it_keeps_weights_in() -> None:
    for name, engine in ENGINES.items():
        for precision in engine.precisions:
            # Of what OpenVINO stores in float32 it makes bfloat16, towers alone; int8 and fp8 are fp16 elsewhere.
            tower, head = (engine.holds_weights_in(precision, tower) for tower in (True, False))
            assert (tower, head) == (("bf16", "fp32") if name == "openvino" else (precision, precision))


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose embeddings of a few tokens are 4e5."""
    folder = tmp_path_factory.mktemp("loud") / "checkpoint"
    make_colqwen2(folder, Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64), adapter=None)
    (file,) = (path for path in folder.glob("*.safetensors") if EMBEDDINGS in load_file(path))
    weights = load_file(file)
    weights[EMBEDDINGS][UNREAD] = 4e5
    save_file(weights, file, metadata={"format": "pt"})
    return folder


@pytest.fixture
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vision encoder's graph is not written, and the language model's ends the test."""

    def write(step: Step, *_: object) -> None:
        if step.name == "language_model":
            raise RuntimeError("written")

    monkeypatch.setattr(exporter, "export_graph", write)


@pytest.mark.usefixtures("no_graph")
def test_rows_that_no_sample_reads_stop_an_export(loud: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"embed_tokens\.weight \(up to 4e\+05\)\. Export the checkpoint in bf16\."):
        export(Request(str(loud), "colqwen2", tmp_path / "repository", precision="fp16"), lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_graph")
def test_they_decide_the_precision_where_nobody_did(loud: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    with pytest.raises(RuntimeError, match="written"):
        export(Request(str(loud), "colqwen2", tmp_path / "out", engine="onnxruntime-tensorrt"), lines.append)
    (line,) = (line for line in lines if line.startswith("precision: bf16"))
    assert "4e+05 at language_model.embed_tokens.weight, is beyond" in line
