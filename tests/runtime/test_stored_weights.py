"""Weights that are no numbers are found in files that the onnx package wrote."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from periscope_runtime.stored_weights import not_finite

TYPES = ["float32", "float16", "float64", "bfloat16", "float8_e4m3fn"]


def save(folder: Path, external: bool, **weights: object) -> Path:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B"])],
        tensors,
    )
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph), file, save_as_external_data=external, location="data", size_threshold=0)
    return file


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_they_are_named(tmp_path: Path, dtype: str, external: bool) -> None:
    sound = np.array([[0.5, -1.5], [-448, 0]], np.dtype(getattr(ml_dtypes, dtype, dtype)))
    nan, infinite, negative = (sound.copy() for _ in range(3))
    nan[0, 1], infinite[1, 1], negative[1, 0] = np.nan, np.inf, -np.inf
    file = save(tmp_path, external, first=sound, nan=nan, infinite=infinite, negative=negative, last=sound)
    # This fp8 has no infinity: numpy makes nan of it.
    assert not_finite(file) == ["nan", "infinite", "negative"]


def test_numbers_as_large_as_there_are_pass(tmp_path: Path) -> None:
    largest = {name: np.full(2, ml_dtypes.finfo(getattr(ml_dtypes, name, name)).max) for name in TYPES}  # type: ignore[no-untyped-call]
    assert not_finite(save(tmp_path, True, **largest, int8=np.full(4, 127, np.int8), none=np.zeros(0))) == []


def test_single_numbers_may_be_infinite(tmp_path: Path) -> None:
    """A mask is minus infinity, the score of nothing nan."""
    assert not_finite(save(tmp_path, False, mask=np.float32(-np.inf), score=np.float32(np.nan))) == []


def test_a_row_far_into_a_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("periscope_runtime.stored_weights._CHUNK", 64)
    weight = np.zeros((100, 7), np.float16)
    weight[99, 6] = np.inf
    assert not_finite(save(tmp_path, True, weight=weight)) == ["weight"]
