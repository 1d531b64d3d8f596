"""int8 on any processor: exact in onnxruntime, and in OpenVINO exact or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from tritonclient import grpc

from periscope_export.graphs.session import frugal_session
from periscope_runtime.int8_products import exact, quantised
from periscope_serve.backends.onnxruntime.settings import Settings
from periscope_serve.errors import StartError
from periscope_serve.server import Server
from serve import toys

CORE = openvino.Core()
CPUINFO = Path("/proc/cpuinfo")
WIDTH = 64
HINT = 'parameters { key: "HINT_BF16" value: { string_value: "YES" } }'


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """Ones times ones, WIDTH of them, in int8: the largest sum that there can be."""
    constants: dict[str, NDArray[Any]] = {
        "scale": np.array(1 / 127, np.float32),
        "zero": np.array(0, np.int8),
        "weight": np.full((WIDTH, WIDTH), 127, np.int8),
        "scales": np.full(WIDTH, 1 / 127, np.float32),
        "zeros": np.zeros(WIDTH, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["w"], axis=1),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    model = toys.graph(
        nodes,
        {"x": (TensorProto.FLOAT, ["B", WIDTH])},
        {"y": (TensorProto.FLOAT, ["B", WIDTH])},
        constants,
    )
    file = tmp_path / "model.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def ones(rows: int = 2) -> NDArray[np.float32]:
    return np.ones((rows, WIDTH), np.float32)


@pytest.mark.skipif(
    not CPUINFO.exists() or ("GenuineIntel" not in CPUINFO.read_text() and "AuthenticAMD" not in CPUINFO.read_text()),
    reason="no list of what the processor has",
)
def test_what_openvino_is_asked_is_what_the_processor_lacks() -> None:
    has = CPUINFO.read_text().split("flags", 2)[1].split()
    assert exact(openvino, CORE) == any(name in has for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def test_onnxruntime_is_exact(product: Path) -> None:
    """As it is served, and as fidelity is measured."""
    template = Path(__file__).parents[2] / "model_repository" / "periscope_repository" / "graph" / "onnxruntime.pbtxt"
    entry = "session.x64quantprecision"
    assert f'key: "{entry}" value {{ string_value: "1" }}' in template.read_text()
    options = Settings.of({"parameters": {entry: {"string_value": "1"}}}).session_options()
    for session in (onnxruntime.InferenceSession(str(product), options), frugal_session(product)):
        np.testing.assert_allclose(session.run(None, {"x": ones()})[0], WIDTH, rtol=1e-5)


def test_openvino_is_exact_or_refused(product: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    config = toys.config(f"x FP32 [{WIDTH}]", f"y FP32 [{WIDTH}]", HINT, backend="openvino")
    folder = toys.write(repository, "product", None, config)
    toys.save_openvino(onnx.load(product), folder / "model.xml")
    model = CORE.read_model(folder / "model.xml")
    assert quantised(model)
    server = Server([repository], grpc_port=0, http_port=0, metrics_port=0, log=tmp_path / "triton.log")
    if not exact(openvino, CORE):
        with pytest.raises(StartError, match="which this processor adds up wrongly"), server:
            pass
        wrong = CORE.compile_model(model, "CPU")([ones()])[0]
        assert np.abs(wrong - WIDTH).max() > 1
        return
    with server, grpc.InferenceServerClient(server.grpc_url) as triton:
        x = grpc.InferInput("x", [2, WIDTH], "FP32")
        x.set_data_from_numpy(ones())
        np.testing.assert_allclose(triton.infer("product", [x]).as_numpy("y"), WIDTH, rtol=0.01)


def test_other_models_are_not_asked(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(toys.double(["B", 8]).SerializeToString())
    assert not quantised(CORE.read_model(file))
