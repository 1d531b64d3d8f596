"""Quantised graphs beside ModelOpt's, which nobody here wrote: the same steps, the same weights, the same outputs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.errors import ExportError
from periscope_export.graphs.graph import export_graph
from periscope_export.graphs.quantise import Mode, quantise
from periscope_export.graphs.session import frugal_session
from periscope_export.models.layers import Linear
from periscope_export.models.steps import Step, TensorSpec
from periscope_runtime.paths import TEXT

WIDTH, ZEROS = 64, 3
Samples = list[dict[str, NDArray[np.float32]]]


class Gated(nn.Module):
    """Two products read one tensor, a third what they give; one output of the first has nothing but zeros."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.up = Linear(WIDTH, 2 * WIDTH), Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = Linear(2 * WIDTH, WIDTH, bias=False)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)
        nn.init.zeros_(self.gate.weight[:, ZEROS])
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return y


@pytest.fixture(scope="module")
def samples() -> Samples:
    """Of two lengths; the second is the larger in places."""
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((1, tokens, WIDTH)).astype(np.float32)} for tokens in (12, 5)]


def gated_graph(dtype: str, samples: Samples, folder: Path) -> Path:
    axes = ("B", "T", WIDTH)
    module = Gated(getattr(torch, dtype)).eval()
    step = Step(
        "step", lambda: module, None, (TensorSpec("x", dtype, axes),), (TensorSpec("y", dtype, axes),), paths=(TEXT,)
    )
    return export_graph(step, module, samples[0], folder / "graph")


def by_modelopt(graph: Path, output: Path, mode: Mode, samples: Samples, dtype: str) -> None:
    from modelopt.onnx.quantization import quantize
    from modelopt.onnx.quantization.calib_utils import CalibrationDataProvider

    class Reader(CalibrationDataProvider):  # type: ignore[misc]
        """Its own takes one array an input."""

        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self.left: Iterator[dict[str, Any]] = iter([{"x": one["x"].astype(dtype)} for one in samples])

        def get_first(self) -> dict[str, Any]:
            return {"x": samples[0]["x"].astype(dtype)}

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    copy = output.parent / "in"
    shutil.copytree(graph.parent, copy)
    quantize(
        str(copy / graph.name),
        mode,
        calibration_data_reader=Reader(),
        calibration_eps=["cpu"],
        calibration_method="max",
        op_types_to_quantize=["MatMul"],
        output_path=str(output),
        high_precision_dtype="fp32",  # its word for: leave the graph's precision alone
        dq_only=True,
        enable_gemv_detection_for_trt=False,
        log_level="CRITICAL",  # a missing GPU is an error to it
    )


def tensors(graph: Path) -> dict[str, NDArray[Any]]:
    return {
        tensor.name: numpy_helper.to_array(tensor, str(graph.parent)) for tensor in onnx.load(graph).graph.initializer
    }


def run(graph: Path, x: NDArray[Any]) -> NDArray[np.float32]:
    session = frugal_session(graph)  # exact on every processor
    (y,) = session.run(None, {"x": x})
    assert isinstance(y, np.ndarray)
    return y.astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("mode", ["int8", "fp8"])
def test_as_modelopt_does_it(mode: Mode, dtype: str, samples: Samples, tmp_path: Path) -> None:
    graph = gated_graph(dtype, samples, tmp_path)
    before = {path.name: path.read_bytes() for path in graph.parent.iterdir()}
    ours, theirs = tmp_path / "ours" / "model.onnx", tmp_path / "theirs" / "model.onnx"
    theirs.parent.mkdir()
    assert len(quantise(graph, ours, mode, samples).weights) == 3
    assert {path.name: path.read_bytes() for path in graph.parent.iterdir()} == before
    by_modelopt(graph, theirs, mode, samples, dtype)
    onnx.checker.check_model(ours, full_check=True)

    found, expected = tensors(ours), tensors(theirs)
    assert {name: (x.dtype, x.shape) for name, x in found.items()} == {
        name: (x.dtype, x.shape) for name, x in expected.items()
    }
    assert sum(name.endswith("_scale") for name in found) == 5, "three weights, and two tensors that they multiply"
    for name, tensor in expected.items():
        if name.endswith("weight"):
            # A quotient between two steps may be rounded to either: ours come from scales as they are stored.
            steps = np.abs(found[name].astype(np.float32) - tensor.astype(np.float32))
            assert (steps > 0).mean() < (0.001 if dtype == "float32" else 0.05)
            assert steps.max() <= (1 if mode == "int8" else 4)
        else:
            # The size of a step between zeros is anything.
            compared = np.arange(tensor.size) != (ZEROS if name == "gate.weight_scale" else -1)
            ours_N, theirs_N = (x.ravel()[compared].astype(np.float32) for x in (found[name], tensor))
            np.testing.assert_allclose(ours_N, theirs_N, rtol=2e-3)
    x = samples[0]["x"].astype(dtype)
    largest = np.abs(run(theirs, x)).max()
    # The last bit of a step decides to which number an activation is rounded, here and there.
    assert np.abs(run(ours, x) - run(theirs, x)).mean() < 0.005 * largest
    np.testing.assert_allclose(run(ours, x), run(graph, x), atol=0.1 * largest)


def test_a_graph_is_replaced_in_its_place(samples: Samples, tmp_path: Path) -> None:
    graph = gated_graph("float32", samples, tmp_path)
    apart = tmp_path / "apart" / graph.name
    quantise(graph, apart, "int8", samples)
    before = sum(path.stat().st_size for path in graph.parent.iterdir())
    quantise(graph, graph, "int8", samples)
    assert sorted(path.name for path in graph.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert sum(path.stat().st_size for path in graph.parent.iterdir()) < before / 2
    x = samples[1]["x"]
    np.testing.assert_array_equal(run(graph, x), run(apart, x))


def test_activations_that_are_no_numbers_are_refused(samples: Samples, tmp_path: Path) -> None:
    graph = gated_graph("float16", samples, tmp_path)
    for spoilt, value in ((0, np.nan), (1, np.nan), (0, np.inf), (1, -np.inf)):
        with_value = [{"x": sample["x"].copy()} for sample in samples]
        with_value[spoilt]["x"][0, 0, 0] = value
        with pytest.raises(ExportError, match=r"quantise: x is not finite on the samples.*in bf16 or fp32"):
            quantise(graph, tmp_path / "quantised.onnx", "int8", with_value)


@pytest.mark.parametrize("mode", ["int8", "fp8"])
def test_weights_too_small_for_a_scale_of_their_own_stay_numbers(mode: Mode, samples: Samples, tmp_path: Path) -> None:
    """A millionth of it is no number of fp16 but zero, and what is divided by it is none at all."""
    graph = gated_graph("float16", samples, tmp_path)
    model = onnx.load(graph)
    (gate,) = (tensor for tensor in model.graph.initializer if tensor.name == "gate.weight")
    weight_IO = numpy_helper.to_array(gate).copy()
    weight_IO[:, 0] = np.float16(1e-6)
    gate.CopyFrom(numpy_helper.from_array(weight_IO, gate.name))
    onnx.save(model, graph)
    output = tmp_path / "quantised.onnx"
    quantise(graph, output, mode, samples)
    assert (tensors(output)["gate.weight_scale"] > 0).all()
    x = samples[0]["x"].astype(np.float16)
    np.testing.assert_allclose(run(output, x), run(graph, x), atol=0.1 * np.abs(run(graph, x)).max())
