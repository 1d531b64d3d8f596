"""Products whose input is scaled token by token, in ONNX Runtime: the same outputs, and less lost to int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from periscope_export.errors import ExportError
from periscope_export.graphs.graph import export_graph
from periscope_export.graphs.per_token import scale_tokens
from periscope_export.graphs.quantise import quantise
from periscope_export.graphs.session import frugal_session
from periscope_export.models.layers import Linear
from periscope_export.models.steps import Step, TensorSpec
from periscope_runtime.paths import TEXT

TOKENS, WIDTH = 12, 64
Floats = NDArray[np.float32]


class Two(nn.Module):
    """Two products with a weight, one of them with a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = Linear(WIDTH, WIDTH), Linear(WIDTH, WIDTH, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


@pytest.fixture(scope="module")
def tokens() -> Floats:
    """Tokens far apart in size, and one of zeros, as padding may be."""
    magnitudes_T1 = np.logspace(-2, 2, TOKENS)[:, None]
    tokens_TI = np.random.default_rng(0).standard_normal((TOKENS, WIDTH)) * magnitudes_T1
    tokens_TI[3] = 0
    return tokens_TI[None].astype(np.float32)


@pytest.fixture
def graph(tmp_path: Path, tokens: Floats) -> Path:
    axes = ("B", "T", WIDTH)
    step = Step(
        "step", Two, None, (TensorSpec("x", "float32", axes),), (TensorSpec("y", "float32", axes),), paths=(TEXT,)
    )
    return export_graph(step, step.build().eval(), {"x": tokens}, tmp_path / "graph")


def run(graph: Path, tokens: Floats) -> Floats:
    session = frugal_session(graph)  # exact on every processor
    (found,) = session.run(None, {"x": tokens})
    assert isinstance(found, np.ndarray)
    return found


def test_outputs_stay_the_same(graph: Path, tokens: Floats) -> None:
    before = run(graph, tokens)
    model = onnx.load(graph)
    scale_tokens(model.graph, ["first.weight", "second.weight"])
    onnx.checker.check_model(model, full_check=True)
    scaled = graph.with_name("scaled.onnx")
    onnx.save_model(model, scaled)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("ReduceMax") == kinds.count("MatMul") == 2
    np.testing.assert_allclose(run(scaled, tokens), before, rtol=1e-5, atol=1e-5)


def lost(graph: Path, tokens: Floats, per_token: list[str]) -> Floats:
    """Largest error of each token, as a share of its largest value."""
    output = graph.with_name("quantised.onnx")
    found = quantise(graph, output, "int8", [{"x": tokens}], keep=["second"], per_token=per_token)
    assert len(found.weights) == len(found.kept) == 1
    assert bool(found.per_token) == bool(per_token)
    exact = run(graph, tokens)
    shares_T: Floats = (np.abs(run(output, tokens) - exact).max(axis=-1) / np.abs(exact).max(axis=-1))[0]
    return shares_T


def test_small_tokens_survive_beside_large_ones(graph: Path, tokens: Floats) -> None:
    # Below half a step of the scale that they share with the largest, nothing of the small ones is left.
    assert lost(graph, tokens, []).max() > 0.2
    assert lost(graph, tokens, ["first"]).max() < 0.05


def test_a_pattern_that_finds_nothing_is_refused(graph: Path, tokens: Floats) -> None:
    with pytest.raises(ExportError, match="third finds no weight"):
        quantise(graph, graph.with_name("quantised.onnx"), "int8", [{"x": tokens}], per_token=["third"])


def test_a_pattern_that_finds_only_what_is_kept_is_refused(graph: Path, tokens: Floats) -> None:
    output = graph.with_name("quantised.onnx")
    with pytest.raises(ExportError, match=r"second finds no weight\. Quantised are: [^,]*first"):
        quantise(graph, output, "int8", [{"x": tokens}], keep=["second"], per_token=["second"])
