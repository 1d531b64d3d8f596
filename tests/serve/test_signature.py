"""Completing and refusing configs, by the rules of the C++ backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime
import pytest

from periscope_serve.backends.signature import (
    Signature,
    SignatureError,
    TensorInfo,
    check,
    complete,
    is_complete,
)
from serve import toys


def signature(inputs: dict[str, list[int]], outputs: dict[str, list[int]], kind: str = "TYPE_FP32") -> Signature:
    return Signature(
        {name: TensorInfo(kind, tuple(dims)) for name, dims in inputs.items()},
        {},
        {name: TensorInfo(kind, tuple(dims)) for name, dims in outputs.items()},
    )


def tensor(name: str, dims: list[int], kind: str = "TYPE_FP32", **more: Any) -> dict[str, Any]:
    return {"name": name, "data_type": kind, "dims": dims, **more}


def config(batch: int, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "m", "max_batch_size": batch, "input": inputs, "output": outputs}


GRAPH = signature({"x": [-1, 8]}, {"y": [-1, -1, 4]})
FITTING = config(8, [tensor("x", [8])], [tensor("y", [-1, 4])])


def test_reads_a_session(tmp_path: Path) -> None:
    onnx.save(toys.pick(), tmp_path / "pick.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "pick.onnx"), providers=["CPUExecutionProvider"])
    assert Signature.of(session) == Signature(
        {"x": TensorInfo("TYPE_INT32", (-1, -1))}, {}, {"y": TensorInfo("TYPE_FP32", (-1, -1, 3))}
    )


def test_a_sequence_is_not_a_tensor() -> None:
    class Sequence(NamedTuple):
        name: str = "s"
        type: str = "seq(tensor(float))"
        shape: tuple[int, ...] = ()

    class Session:
        def get_inputs(self) -> list[Sequence]:
            return [Sequence()]

        get_outputs = get_overridable_initializers = get_inputs

    with pytest.raises(SignatureError, match=r"Unsupported ONNX Type 'seq\(tensor\(float\)\)' for I/O 's'"):
        Signature.of(Session())


def test_completes_batching_inputs_and_outputs() -> None:
    empty = config(0, [], [])
    complete(empty, GRAPH)
    assert empty == {**FITTING, "max_batch_size": 4, "dynamic_batching": {}}
    check(empty, GRAPH)


@pytest.mark.parametrize("graph", [signature({"x": [2, 8]}, {"y": [-1, 4]}), signature({"x": [-1]}, {"y": []})])
def test_completes_without_batching_where_a_first_dimension_is_fixed(graph: Signature) -> None:
    empty = config(0, [], [])
    complete(empty, graph)
    assert empty["max_batch_size"] == 0
    assert "dynamic_batching" not in empty
    assert empty["input"][0]["dims"] == list(graph.inputs["x"].dims)
    check(empty, graph)


def test_completing_keeps_what_the_config_says() -> None:
    partial = config(16, [tensor("x", [8])], [])
    partial["dynamic_batching"] = {"max_queue_delay_microseconds": 5}
    complete(partial, GRAPH)
    assert partial["max_batch_size"] == 16
    assert partial["dynamic_batching"] == {"max_queue_delay_microseconds": 5}
    assert partial["input"] == [tensor("x", [8])]
    assert partial["output"] == [tensor("y", [-1, 4])]


def test_a_batch_of_one_gets_no_dynamic_batching() -> None:
    one = config(1, [], [])
    complete(one, GRAPH)
    assert "dynamic_batching" not in one


def test_completing_a_batch_of_scalars_reshapes_the_dimension_away() -> None:
    empty = config(0, [], [])
    complete(empty, signature({"x": [-1]}, {"y": [-1]}))
    assert empty["input"] == [tensor("x", [1], reshape={"shape": []})]


def test_cannot_complete_batching_that_the_graph_lacks() -> None:
    with pytest.raises(SignatureError, match="model does not support batching while non-zero max_batch_size"):
        complete(config(8, [], []), signature({"x": [2, 8]}, {"y": [2, 4]}))


def test_a_config_with_inputs_and_outputs_is_complete() -> None:
    assert is_complete(FITTING)
    assert not is_complete({**FITTING, "output": []})
    assert not is_complete({**FITTING, "input": []})


@pytest.mark.parametrize(
    "fitting",
    [
        FITTING,
        config(0, [tensor("x", [-1, 8])], [tensor("y", [-1, -1, 4])]),
        config(8, [tensor("x", [2, 4], reshape={"shape": [8]})], [tensor("y", [-1, 4])]),
    ],
)
def test_accepts(fitting: dict[str, Any]) -> None:
    check(fitting, GRAPH)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            config(8, [tensor("q", [8])], [tensor("y", [-1, 4])]),
            "unexpected inference input 'q', allowed inputs are: x",
        ),
        (
            config(8, [tensor("x", [8])], [tensor("zz", [-1, 4])]),
            "unexpected inference output 'zz', allowed outputs are: y",
        ),
        (
            config(8, [tensor("x", [8]), tensor("w", [8])], [tensor("y", [-1, 4])]),
            "unable to load model 'm', configuration expects 2 inputs, model provides 1; "
            "unexpected in the configuration: w",
        ),
        (
            config(8, [tensor("x", [8], "TYPE_INT64")], [tensor("y", [-1, 4])]),
            "unable to load model 'm', configuration expects datatype TYPE_INT64 for input 'x', model provides "
            "TYPE_FP32",
        ),
        (
            config(8, [tensor("x", [8])], [tensor("y", [-1, 4], "TYPE_FP16")]),
            "unable to load model 'm', configuration expects datatype TYPE_FP16 for output 'y', model provides "
            "TYPE_FP32",
        ),
        (
            config(0, [tensor("x", [8])], [tensor("y", [-1, -1, 4])]),
            "model 'm', tensor 'x': the model expects 2 dimensions (shape [-1,8]) but the model configuration "
            "specifies 1 dimensions (shape [8])",
        ),
        (
            config(8, [tensor("x", [9])], [tensor("y", [-1, 4])]),
            "model 'm', tensor 'x': the model expects 2 dimensions (shape [-1,8]) but the model configuration "
            "specifies 2 dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit "
            "tensor shape, making complete shape [-1,9])",
        ),
        (
            # An output that the graph leaves open may not be fixed in the config.
            config(8, [tensor("x", [8])], [tensor("y", [7, 4])]),
            "model 'm', tensor 'y': the model expects 3 dimensions (shape [-1,-1,4]) but the model configuration "
            "specifies 3 dimensions (an initial batch dimension because max_batch_size > 0 followed by the explicit "
            "tensor shape, making complete shape [-1,7,4])",
        ),
        (
            config(8, [tensor("x", [8], optional=True)], [tensor("y", [-1, 4])]),
            "unable to load model 'm', optional input 'x' is not supported for models that support batching",
        ),
    ],
)
def test_refuses(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SignatureError) as caught:
        check(wrong, GRAPH)
    assert str(caught.value) == message


def test_an_input_may_be_narrower_than_the_graph() -> None:
    check(config(8, [tensor("x", [5])], [tensor("y", [4])]), signature({"x": [-1, -1]}, {"y": [-1, 4]}))


def test_refuses_a_batch_where_the_graph_fixes_it() -> None:
    with pytest.raises(SignatureError, match=r"first dimension must be -1; but shape expected by the model is \[2,8\]"):
        check(config(8, [tensor("x", [8])], [tensor("y", [4])]), signature({"x": [2, 8]}, {"y": [-1, 4]}))


def test_a_scalar_takes_ones_only() -> None:
    graph = signature({"x": [-1]}, {"y": []})
    check(config(0, [tensor("x", [-1])], [tensor("y", [1])]), graph)
    with pytest.raises(SignatureError, match=r"scalar tensor 'y', should only provide 1"):
        check(config(0, [tensor("x", [-1])], [tensor("y", [2])]), graph)


def test_bfloat16_cannot_be_carried() -> None:
    graph = signature({"x": [-1, 8]}, {"y": [-1, 4]}, "TYPE_BF16")
    with pytest.raises(SignatureError, match=r"input 'x' is TYPE_BF16, which numpy cannot hold"):
        check(config(8, [tensor("x", [8], "TYPE_BF16")], [tensor("y", [4], "TYPE_BF16")]), graph)
