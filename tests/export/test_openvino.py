"""OpenVINO computes in bfloat16 what may be, and positions in float32, which its own choice would not do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from e2e.processor import HAS_BF16
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_export.graphs.openvino import convert, core

POSITIONS = np.arange(0, 2000, 7, dtype=np.int32)[None]
FREQUENCIES = np.array([1.0, 0.1, 0.01], np.float32)
ANGLES = POSITIONS[..., None] * FREQUENCIES


@pytest.fixture
def rotation(tmp_path: Path) -> Path:
    """Cosines of positions times frequencies, and then a matrix product, as in every tower."""
    nodes = [
        helper.make_node("Cast", ["positions"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["numbers", "last"], ["column"]),
        helper.make_node("Mul", ["column", "frequencies"], ["angles"]),
        helper.make_node("Cos", ["angles"], ["cosines"]),
        helper.make_node("MatMul", ["cosines", "identity"], ["same"]),
    ]
    constants = {"last": np.array([-1]), "frequencies": FREQUENCIES, "identity": np.eye(3, dtype=np.float32)}
    graph = helper.make_graph(
        nodes,
        "rotation",
        [helper.make_tensor_value_info("positions", TensorProto.INT32, ["B", "T"])],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, ["B", "T", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    file = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), file)
    return file


def in_bfloat16(graph: Path) -> NDArray[np.float32]:

    compiled = core().compile_model(core().read_model(graph), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    result: NDArray[np.float32] = compiled([POSITIONS])[0]
    return result


def test_positions_are_not_rounded(rotation: Path) -> None:
    np.testing.assert_allclose(in_bfloat16(convert(rotation)), np.cos(ANGLES), atol=0.01)


@pytest.mark.skipif(not HAS_BF16, reason="a CPU without bfloat16")
def test_they_would_be(rotation: Path) -> None:
    assert np.abs(in_bfloat16(rotation) - np.cos(ANGLES)).max() > 0.5


def test_the_new_graph_takes_the_place_of_the_old_one(rotation: Path) -> None:
    rotation.with_name("model.onnx.data").touch()
    written = convert(rotation)
    assert sorted(path.name for path in written.parent.iterdir()) == ["model.bin", "model.xml"]
    model = core().read_model(written)
    assert [port.get_any_name() for port in (*model.inputs, *model.outputs)] == ["positions", "same"]


def test_a_missing_openvino_stops_the_export_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExportError, match=r"pip install '\.\[openvino\]'"):
        export(Request("nowhere", "colqwen2", tmp_path / "out", engine="openvino"))


def test_openvino_has_no_fp32(tmp_path: Path) -> None:
    """Triton's C++ backend cannot be told to compute in float32 where the processor has bfloat16."""
    with pytest.raises(ExportError, match="openvino does not serve fp32"):
        export(Request("nowhere", "colqwen2", tmp_path / "out", engine="openvino", precision="fp32"))
