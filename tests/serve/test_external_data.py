"""The walk over an ONNX file, held against the onnx package's own reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import external_data_helper, helper, numpy_helper

from periscope_serve.external_data import NotOnnxError, external_files
from serve import toys


def stored(name: str, location: str, offset: int | None = None, length: int | None = None) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), name)
    external_data_helper.set_external_data(tensor, location, offset, length)
    tensor.ClearField("raw_data")
    return tensor


def test_a_model_that_holds_its_weights(tmp_path: Path) -> None:
    onnx.save(toys.pick(), tmp_path / "m.onnx")
    assert external_files(tmp_path / "m.onnx") == {}


def test_agrees_with_onnx(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((5, 3)).astype(np.float32) for name in ("a", "b", "c")}
    nodes = [
        helper.make_node("Gather", ["a", "x"], ["p"]),
        helper.make_node("Gather", ["b", "x"], ["q"]),
        helper.make_node("Gather", ["c", "x"], ["r"]),
        helper.make_node("Sum", ["p", "q", "r"], ["y"]),
    ]
    model = toys.graph(nodes, {"x": (toys.INT32, ["B"])}, {"y": (toys.FLOAT, ["B", 3])}, weights)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.data", size_threshold=0)
    loaded = onnx.load(path, load_external_data=False)
    infos = [external_data_helper.ExternalDataInfo(tensor) for tensor in loaded.graph.initializer]
    assert external_files(path) == {"w.data": max((info.offset or 0) + (info.length or 0) for info in infos)}
    assert external_files(path) == {"w.data": (tmp_path / "w.data").stat().st_size}


def test_finds_tensors_wherever_they_lie(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["k"], value=stored("k", "constant.data", 8, 16))
    branch = helper.make_graph([constant], "branch", [], [], [stored("s", "branch.data")])
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
            "g",
            [],
            [],
            [stored("w", "weights.data", 0, 16), stored("v", "weights.data", 16, 16)],
        )
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    assert external_files(path) == {"constant.data": 24, "branch.data": 0, "weights.data": 32}


@pytest.mark.parametrize("content", [b"", b"not protobuf at all", b"\x3a\x7f\x00", b"\xff" * 20])
def test_refuses_what_is_not_onnx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(NotOnnxError):
        external_files(tmp_path / "m.onnx")


def test_damage_is_refused_or_read_over(tmp_path: Path) -> None:
    """Cuts and flipped bits anywhere in a small file: an answer or NotOnnxError, nothing else."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Constant", [], ["k"], value=stored("k", "constant.data", 8, 16))],
            "g",
            [],
            [],
            [stored("w", "weights.data", 0, 16)],
        )
    )
    sound = model.SerializeToString()
    path = tmp_path / "m.onnx"
    rng = np.random.default_rng(0)
    refused = 0
    for cut in range(1, len(sound)):
        path.write_bytes(sound[:cut])
        refused += read_or_refused(path)
    for _ in range(400):
        flipped = bytearray(sound)
        for place in rng.integers(0, 8 * len(sound), rng.integers(1, 4)):
            flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        refused += read_or_refused(path)
    assert refused > 100


def read_or_refused(path: Path) -> bool:
    try:
        external_files(path)
    except NotOnnxError:
        return True
    return False


def test_a_graph_in_a_graph_without_end(tmp_path: Path) -> None:
    message = b""
    for _ in range(3000):
        for tag in (0x32, 0x2A, 0x0A):  # graph of an attribute, attribute of a node, node of a graph
            message = bytes([tag]) + varint(len(message)) + message
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + varint(len(message)) + message)
    with pytest.raises(NotOnnxError):
        external_files(tmp_path / "m.onnx")


def varint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)
