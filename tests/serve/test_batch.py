"""Joining requests, without Triton."""

from __future__ import annotations

import numpy as np
import pytest

from periscope_serve.backends.batch import (
    MESSAGE_LIMIT,
    Array,
    Request,
    RequestError,
    answer,
    client_message,
)


class Doubler:
    """y = 2x, except that a 13 in the input fails the whole run."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
        self.rows.append(len(inputs["x"]))
        if (inputs["x"] == 13).any():
            raise ValueError("thirteen in /srv/models/m/1/model.onnx")
        return [{"y": 2 * inputs["x"], "sum": inputs["x"].sum()}[name] for name in names]


def request(*rows: float, outputs: tuple[str, ...] = ("y",)) -> Request:
    return Request({"x": np.array(rows, np.float32)[:, None]}, outputs)


def test_one_run_for_all() -> None:
    run = Doubler()
    answers = answer([request(1), request(2, 3), request(4)], run, batched=True)
    assert run.rows == [4]
    assert [found["y"].ravel().tolist() for found in answers if isinstance(found, dict)] == [[2], [4, 6], [8]]


def test_never_joins_without_a_batch_dimension() -> None:
    run = Doubler()
    answer([request(1), request(2)], run, batched=False)
    assert run.rows == [1, 1]


def test_the_failing_request_fails_alone() -> None:
    run = Doubler()
    first, bad, last = answer([request(1), request(13), request(2)], run, batched=True)
    assert isinstance(bad, RequestError)
    assert str(bad) == "thirteen in"
    assert isinstance(first, dict)
    assert isinstance(last, dict)
    assert last["y"].tolist() == [[4]]
    assert run.rows == [3, 1, 1, 1]


def test_a_single_failing_request_is_not_run_twice() -> None:
    run = Doubler()
    answer([request(13)], run, batched=True)
    assert run.rows == [1]


def test_an_output_that_cannot_be_split_is_not_split_wrongly() -> None:
    first, second = answer([request(1, outputs=("sum",)), request(2, outputs=("sum",))], Doubler(), batched=True)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert [float(first["sum"]), float(second["sum"])] == [1, 2]


def test_unequal_shapes_are_run_apart() -> None:
    wide = Request({"x": np.ones((1, 5), np.float32)}, ("y",))
    first, second = answer([request(1), wide], Doubler(), batched=True)
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert second["y"].shape == (1, 5)


def test_no_requests() -> None:
    assert answer([], Doubler(), batched=True) == []


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running Gather node. "
            "Name:'g' Status Message: idx=9 must be within the inclusive range [-8,7]",
            "onnx runtime error 2: Non-zero status code returned while running Gather node. Name:'g' Status Message: "
            "idx=9 must be within the inclusive range [-8,7]",
        ),
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Status Message: /src/core/reshape_helper.h:44 "
            "onnxruntime::ReshapeHelper::ReshapeHelper(const onnxruntime::TensorShape&, bool) size was false.\n",
            "onnx runtime error 6: Status Message: size was false.",
        ),
        ("cannot read /srv/models/r/1/model.onnx", "cannot read"),
        ("", "ValueError"),
    ],
)
def test_the_message_keeps_the_reason_and_drops_the_place(raw: str, message: str) -> None:
    assert client_message(ValueError(raw)) == message


def test_a_long_message_is_cut() -> None:
    assert len(client_message(ValueError("word " * 1000))) == MESSAGE_LIMIT
