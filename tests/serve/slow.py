"""Runs inside Triton: y = x, after x[0, 0] seconds."""

import time
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        time.sleep(float(x[0, 0]))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", x)])
