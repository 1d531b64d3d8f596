"""Refusals of the stand-in, as someone who starts the server is told."""

from __future__ import annotations

import pytest
from onnx import helper

from periscope_serve.errors import StartError
from periscope_serve.server import Server
from serve import toys
from serve.leftovers import shared_memory

GOOD = "x FP32 [-1]", "y FP32 [-1]"
# Enough for a parser of protobuf, not for onnxruntime.
NO_GRAPH = b"\x08\x08"

BROKEN = {
    "output_name": (
        toys.config(GOOD[0], "zz FP32 [-1]"),
        "unexpected inference output 'zz', allowed outputs are: y, z",
    ),
    "input_name": (toys.config("q FP32 [-1]", GOOD[1]), "unexpected inference input 'q', allowed inputs are: x"),
    "dims": (toys.config("x FP32 [-1,8]", GOOD[1]), "tensor 'x': the model expects 2 dimensions (shape [-1,-1]) but"),
    "data_type": (toys.config("x INT64 [-1]", GOOD[1]), "configuration expects datatype TYPE_INT64 for input 'x'"),
    "threads": (
        toys.config(*GOOD, 'parameters { key: "intra_op_thread_count" value: { string_value: "four" } }'),
        "intra_op_thread_count: failed to convert 'four' to integral number",
    ),
    "ragged": (
        toys.config(*GOOD).replace("dims: [-1] }]", "dims: [-1] allow_ragged_batch: true }]", 1),
        "allow_ragged_batch of 'x', which only Triton's C++ onnxruntime backend offers",
    ),
}


@pytest.fixture(scope="module")
def refusal(tmp_path_factory: pytest.TempPathFactory) -> str:
    before = set(shared_memory())
    repository = tmp_path_factory.mktemp("refused")
    for name, (config, _) in BROKEN.items():
        toys.write(repository, name, toys.double(["B", "N"]), config)
    shape: list[int | str] = ["B", "N"]
    same = [helper.make_node("Identity", ["x"], ["y"])]
    bfloat16 = toys.graph(same, {"x": (toys.BFLOAT16, shape)}, {"y": (toys.BFLOAT16, shape)})
    toys.write(repository, "bfloat16", bfloat16, toys.config("x BF16 [-1]", "y BF16 [-1]"))
    toys.write(repository, "uncompletable", toys.double([2, 8]), 'backend: "onnxruntime"\nmax_batch_size: 8\n')
    (toys.write(repository, "empty", None, toys.DOUBLE) / "model.onnx").write_bytes(NO_GRAPH)
    toys.write(repository, "python", "raise ImportError('no module of that name')\n", toys.PYTHON)
    toys.write(repository, "sound", toys.double(["B", "N"]), toys.DOUBLE)
    log = repository / "triton.log"
    with (
        pytest.raises(StartError) as caught,
        Server([repository], grpc_port=0, http_port=0, metrics_port=0, start_timeout=60, log=log),
    ):
        pass
    assert set(shared_memory()) == before
    return str(caught.value)


@pytest.mark.parametrize("name", BROKEN)
def test_refuses(refusal: str, name: str) -> None:
    (line,) = [line for line in refusal.splitlines() if f"model '{name}'" in line]
    assert BROKEN[name][1] in line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bfloat16", "which numpy cannot hold"),
        ("uncompletable", "model does not support batching while non-zero max_batch_size is specified"),
        ("empty", "onnxruntime cannot load model.onnx"),
        ("python", "no module of that name"),
    ],
)
def test_refuses_too(refusal: str, name: str, message: str) -> None:
    (line,) = [line for line in refusal.splitlines() if f"model '{name}'" in line]
    assert message in line


def test_the_reason_is_free_of_noise(refusal: str) -> None:
    assert "sound" not in refusal
    for noise in ("At:", "Traceback", "TritonModelException", "CudaDriverHelper", "|", "+--"):
        assert noise not in refusal
