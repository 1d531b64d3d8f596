"""How fast this machine multiplies matrices: the fastest of what computes here, on a product of the 2B width.

Run by the project's own environment; speaks the lines that `host.py` describes. Operations of int8 are on integers.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

# The patches of a page; the width of the language model of Qwen2-VL-2B and of its largest product.
ROWS, INNER, COLUMNS = 1120, 1536, 8960
REPEATS = 5

_ONNX = {
    "fp32": ("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.FLOAT),
    "fp16": ("MatMul", TensorProto.FLOAT16, TensorProto.FLOAT16, TensorProto.FLOAT16),
    "int8": ("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32),
}
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


class Peer:
    """The operations, by their names."""

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take the number of threads."""
        self.threads = request["threads"]
        torch.set_num_threads(self.threads)
        return {"versions": {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}}

    def peak(self, request: dict[str, Any]) -> dict[str, Any]:
        """Multiply with everything that can."""
        precision = request["precision"]
        ways = {"torch": in_torch(precision), "onnxruntime": in_onnxruntime(precision, self.threads)}
        return {"gflops": {name: _gflops(multiply) for name, multiply in ways.items() if multiply is not None}}


def _gflops(multiply: Callable[[], Any]) -> float:
    best = float("inf")
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        multiply()
        best = min(best, time.perf_counter() - start)
    return 2 * ROWS * INNER * COLUMNS / best / 1e9


def main() -> None:
    """Answer line by line. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            start = time.perf_counter()
            answer = getattr(peer, request["op"])(request)
            answer["seconds"] = time.perf_counter() - start
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
