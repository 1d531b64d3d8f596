"""The onnxruntime stand-in, on a running Triton."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerException

from periscope_serve.server import Server
from serve import toys
from serve.conftest import Infer, Together


class Counted:
    """The rows a model inferred inside the `with` block, and the runs it took."""

    def __init__(self, client: Any, model: str):
        self._client, self._model = client, model

    def __enter__(self) -> Counted:
        self._before = self._settled()
        return self

    def __exit__(self, *_: object) -> None:
        after = self._settled()
        self.rows, self.runs = after[0] - self._before[0], after[1] - self._before[1]

    def _settled(self) -> tuple[int, int]:
        # Triton counts after it answers.
        now, before = self._counts(), (-1, -1)
        while now != before:
            time.sleep(0.2)
            now, before = self._counts(), now
        return now

    def _counts(self) -> tuple[int, int]:
        (stats,) = self._client.get_inference_statistics(self._model).model_stats
        return stats.inference_count, stats.execution_count


def test_every_model_is_served(server: Server) -> None:
    assert {"double", "pick", "chain", "completed", "external"} <= set(server.models)


@pytest.mark.parametrize("model", ["double", "openvino_double"])
def test_joins_requests_into_one_run(client: Any, together: Together, model: str) -> None:
    inputs = [np.array([[i, i + 1]], np.float32) for i in range(4)]
    with Counted(client, model) as counted:
        answers = together(model, inputs)
    for x, y in zip(inputs, answers, strict=True):
        np.testing.assert_array_equal(y, 2 * x)
    assert (counted.rows, counted.runs) == (4, 1)


def test_joined_requests_may_hold_several_rows(client: Any, together: Together) -> None:
    inputs = [np.full((rows, 2), rows, np.float32) for rows in (1, 3, 2)]
    with Counted(client, "double") as counted:
        answers = together("double", inputs)
    for x, y in zip(inputs, answers, strict=True):
        np.testing.assert_array_equal(y, 2 * x)
    assert (counted.rows, counted.runs) == (6, 1)


def test_a_batch_row_equals_the_single_row(infer: Infer) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    batch = infer("external", rows)["y"]
    np.testing.assert_array_equal(batch, np.concatenate([infer("external", row[None])["y"] for row in rows]))
    np.testing.assert_allclose(batch, rows @ np.arange(9, dtype=np.float32).reshape(3, 3), rtol=1e-6)


def test_a_bad_request_fails_alone(client: Any, together: Together) -> None:
    inputs = [np.array([[i, i]], np.int32) for i in (1, 99, 3, 7)]
    with Counted(client, "pick") as counted:
        first, bad, third, last = together("pick", inputs)
    assert counted.runs == 1, "the four requests were not in one execute, so this shows nothing"
    np.testing.assert_array_equal(first, toys.TABLE[[[1, 1]]])
    np.testing.assert_array_equal(third, toys.TABLE[[[3, 3]]])
    np.testing.assert_array_equal(last, toys.TABLE[[[7, 7]]])
    assert isinstance(bad, InferenceServerException)
    assert "idx=99 must be within the inclusive range [-8,7]" in bad.message()
    assert bad.message().startswith("onnx runtime error 2: ")


def test_an_error_shows_no_path_and_no_traceback(infer: Infer) -> None:
    with pytest.raises(InferenceServerException) as caught:
        infer("reshape", np.ones(5, np.float32), shape=np.array([2, 2], np.int64))
    message = caught.value.message()
    assert "Reshape" in message
    assert "requested shape:{2,2}" in message
    for leak in ("/", "Traceback", ".py", ".h:", ".cc", "At:", "\n"):
        assert leak not in message


@pytest.mark.parametrize("shape", [(1, 0), (3, 0)])
def test_zero_length_tensors(infer: Infer, shape: tuple[int, int]) -> None:
    assert infer("double", np.zeros(shape, np.float32))["y"].shape == shape
    assert infer("pick", np.zeros(shape, np.int32))["y"].shape == (*shape, 3)


def test_zero_length_tensors_are_joined(together: Together) -> None:
    assert [y.shape for y in together("double", [np.zeros((1, 0), np.float32)] * 3)] == [(1, 0)] * 3


def test_without_a_batch_dimension(client: Any, infer: Infer, together: Together) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    with Counted(client, "whole") as counted:
        answers = together("whole", [x, x + 1, x + 2])
    assert [y.tolist() for y in answers] == [(2 * x).tolist(), (2 * x + 2).tolist(), (2 * x + 4).tolist()]
    assert counted.runs == 3
    assert infer("whole", np.zeros((2, 0), np.float32))["y"].shape == (2, 0)


def test_gives_only_the_outputs_asked_for(infer: Infer) -> None:
    x = np.ones((1, 2), np.float32)
    assert set(infer("double", x)) == {"y", "z"}
    assert set(infer("double", x, outputs=("z",))) == {"z"}


def test_requests_that_ask_for_different_outputs_share_a_run(client: Any, infer: Infer) -> None:
    x = np.ones((1, 2), np.float32)
    with Counted(client, "double") as counted, ThreadPoolExecutor(2) as pool:
        y, z = pool.map(lambda name: infer("double", x, outputs=(name,)), ("y", "z"))
    assert (set(y), set(z)) == ({"y"}, {"z"})
    assert counted.runs == 1


def test_text_goes_through(infer: Infer) -> None:
    x = np.array([["grüße".encode(), b""]], np.object_)
    assert infer("text", x)["y"].tolist() == x.tolist()


def test_bytes_that_are_not_text_are_refused(infer: Infer) -> None:
    with pytest.raises(InferenceServerException, match="input 'x' holds bytes that are not UTF-8"):
        infer("text", np.array([[b"\xff"]], np.object_))


def test_half_precision(infer: Infer) -> None:
    x = np.array([[0.5, -2]], np.float16)
    np.testing.assert_array_equal(infer("half", x, outputs=("y",))["y"], 2 * x)


def test_scalar_output_has_the_dims_of_the_config(infer: Infer) -> None:
    assert infer("scalar", np.array([1, 2, 4], np.float32))["y"].tolist() == [7]


def test_default_model_filename(infer: Infer) -> None:
    assert infer("renamed", np.ones((1, 1), np.float32))["y"].tolist() == [[2]]


def test_ensemble(infer: Infer) -> None:
    assert infer("chain", np.ones((1, 1), np.float32))["out"].tolist() == [[4]]


def test_completes_a_missing_config_as_the_c_backend_does(client: Any, infer: Infer) -> None:
    config = client.get_model_config("completed").config
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert [(entry.name, list(entry.dims)) for entry in config.input] == [("x", [3])]
    assert sorted((entry.name, list(entry.dims)) for entry in config.output) == [("y", [3]), ("z", [3])]
    assert infer("completed", np.ones((4, 3), np.float32))["y"].shape == (4, 3)

    whole = client.get_model_config("completed_whole").config
    assert whole.max_batch_size == 0
    assert not whole.HasField("dynamic_batching")
    assert list(whole.input[0].dims) == [2, 3]


def test_bad_input_gets_triton_s_own_refusal(infer: Infer) -> None:
    with pytest.raises(InferenceServerException, match="expected shape"):
        infer("external", np.ones((1, 4), np.float32))
    with pytest.raises(InferenceServerException, match="data-type"):
        infer("double", np.ones((1, 4), np.int32))
