"""The openvino stand-in, on a running Triton; that it joins requests, test_standin.py shows for both."""

from __future__ import annotations

import numpy as np

from serve import toys
from serve.conftest import Infer


def test_answers_with_the_outputs_that_are_asked_for(infer: Infer) -> None:
    answer = infer("openvino_double", np.array([[1, 2]], np.float32), outputs=("z",))
    assert list(answer) == ["z"]
    np.testing.assert_array_equal(answer["z"], [[-1, -2]])


def test_shapes_may_change_from_request_to_request(infer: Infer) -> None:
    for length in (3, 1, 0, 2):
        picked = np.arange(length, dtype=np.int32)[None]
        np.testing.assert_array_equal(infer("openvino_pick", picked)["y"], toys.TABLE[picked])
