"""The openvino stand-in, on a running Triton."""

from __future__ import annotations

from typing import Any

import numpy as np

from serve import toys
from serve.conftest import Infer, Together
from serve.test_standin import Counted


def test_joins_requests_into_one_run(client: Any, together: Together) -> None:
    inputs = [np.array([[i, i + 1]], np.float32) for i in range(4)]
    with Counted(client, "openvino_double") as counted:
        answers = together("openvino_double", inputs)
    for x, y in zip(inputs, answers, strict=True):
        np.testing.assert_array_equal(y, 2 * x)
    assert (counted.rows, counted.runs) == (4, 1)


def test_answers_with_the_outputs_that_are_asked_for(infer: Infer) -> None:
    answer = infer("openvino_double", np.array([[1, 2]], np.float32), outputs=("z",))
    assert list(answer) == ["z"]
    np.testing.assert_array_equal(answer["z"], [[-1, -2]])


def test_shapes_may_change_from_request_to_request(infer: Infer) -> None:
    for length in (3, 1, 0, 2):
        picked = np.arange(length, dtype=np.int32)[None]
        np.testing.assert_array_equal(infer("openvino_pick", picked)["y"], toys.TABLE[picked])
