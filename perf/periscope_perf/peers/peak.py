"""The peak of this machine's matrix products: the fastest of what computes here, on a product of the 2B width.

Run by the project's own environment; speaks the lines that `host.py` describes. Operations of int8 are on integers.
Weights are constants wherever an engine may pack them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

if TYPE_CHECKING or __package__:
    from periscope_perf.peers.answering import serve
else:  # run by its path, where this package is not installed
    from answering import serve

# The patches of a page; the width of the language model of Qwen2-VL-2B and of its largest product.
ROWS, INNER, COLUMNS = 1120, 1536, 8960
REPEATS = 5

_ONNX = {
    "fp32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
    "fp16": ("MatMul", TensorProto.FLOAT16, TensorProto.FLOAT16, TensorProto.FLOAT16),
    "int8": ("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
}
_OPENVINO = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}
_TORCH = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def in_torch(precision: str) -> Callable[[], Any] | None:
    """Return a function that multiplies once, None where torch does not multiply in this precision."""
    if precision not in _TORCH:
        return None
    left, right = (torch.randn(shape).to(_TORCH[precision]) for shape in ((ROWS, INNER), (INNER, COLUMNS)))
    return lambda: left @ right


def in_onnxruntime(precision: str, threads: int) -> Callable[[], Any] | None:
    """Return a function that multiplies once, with weights that ONNX Runtime may pack; None where it cannot."""
    if precision not in _ONNX:
        return None
    operator, left, right, product = _ONNX[precision]
    rng = np.random.default_rng(0)
    weights = rng.integers(-100, 100, (INNER, COLUMNS)).astype(helper.tensor_dtype_to_np_dtype(right))
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("left", left, [ROWS, INNER])],
        [helper.make_tensor_value_info("product", product, [ROWS, COLUMNS])],
        [onnx.numpy_helper.from_array(weights, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"left": rng.integers(0, 100, (ROWS, INNER)).astype(helper.tensor_dtype_to_np_dtype(left))}
    return lambda: session.run(None, feed)


def in_openvino(precision: str, threads: int) -> Callable[[], Any] | None:
    """Return a function that multiplies once; None where it cannot, or OpenVINO is not installed.

    In int8 the left side is quantised on the way, as activations are: what a graph with quantised weights does.
    """
    if precision not in _OPENVINO:
        return None
    try:
        import openvino
        from openvino import opset13 as ops
    except ImportError:
        return None
    rng = np.random.default_rng(0)
    left = ops.parameter([ROWS, INNER], np.float32)
    if precision == "int8":
        lowest, highest = ops.constant(np.float32(-1.28)), ops.constant(np.float32(1.27))
        first = ops.fake_quantize(left, lowest, highest, lowest, highest, levels=256)
        stored = ops.constant(rng.integers(-100, 100, (INNER, COLUMNS)).astype(np.int8))
        scales = ops.constant(np.full((1, COLUMNS), 0.01, np.float32))
        weights = ops.multiply(ops.convert(stored, np.float32), scales)
    else:
        first, weights = left, ops.constant(rng.standard_normal((INNER, COLUMNS), np.float32))
    model = openvino.Model([ops.matmul(first, weights, False, False)], [left], "peak")
    settings = {"INFERENCE_PRECISION_HINT": _OPENVINO[precision], "INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    feed = [rng.standard_normal((ROWS, INNER), np.float32)]
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True)


class Peer:
    """The operations, by their names."""

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take the number of threads."""
        self.threads = request["threads"]
        torch.set_num_threads(self.threads)
        self.ways: dict[str, dict[str, Callable[[], Any]]] = {}
        found = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
        with contextlib.suppress(PackageNotFoundError):
            found["openvino"] = version("openvino")
        return {"versions": found}

    def peak(self, request: dict[str, Any]) -> dict[str, Any]:
        """Multiply with everything that can."""
        precision = request["precision"]
        if precision not in self.ways:
            ways = {
                "torch": in_torch(precision),
                "onnxruntime": in_onnxruntime(precision, self.threads),
                "openvino": in_openvino(precision, self.threads),
            }
            self.ways[precision] = {name: multiply for name, multiply in ways.items() if multiply is not None}
        return {"gflops": {name: _gflops(multiply) for name, multiply in self.ways[precision].items()}}


def _gflops(multiply: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - start)
    return 2 * ROWS * INNER * COLUMNS / best / 1e9


if __name__ == "__main__":
    serve(Peer())
