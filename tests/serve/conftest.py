from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tritonclient import grpc

from periscope_serve.server import Server
from serve import toys
from serve.running import Running

Array = np.ndarray[Any, np.dtype[Any]]
TYPES = {"float32": "FP32", "float16": "FP16", "int32": "INT32", "object": "BYTES"}


def write_toys(repository: Path) -> None:
    """The models most tests share, in one repository because a server takes seconds to start."""
    text = helper.make_node("Identity", ["x"], ["y"])
    sums = helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)
    reshape = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    matmul = [helper.make_node("MatMul", ["x", "table"], ["y"])]
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    models: dict[str, tuple[onnx.ModelProto, str | None]] = {
        "double": (
            toys.double(["B", "N"]),
            toys.config("x FP32 [-1]", "y FP32 [-1];z FP32 [-1]", toys.JOINING),
        ),
        "half": (toys.double(["B", "N"], toys.HALF), toys.config("x FP16 [-1]", "y FP16 [-1]")),
        "pick": (toys.pick(), toys.config("x INT32 [-1]", "y FP32 [-1,3]", toys.JOINING)),
        "whole": (toys.double([2, "N"]), toys.config("x FP32 [2,-1]", "y FP32 [2,-1]", batch=0)),
        "completed": (toys.double(["B", 3]), None),
        "completed_whole": (toys.double([2, 3]), None),
        "text": (
            toys.graph([text], {"x": (toys.STRING, ["B", "N"])}, {"y": (toys.STRING, ["B", "N"])}),
            toys.config("x STRING [-1]", "y STRING [-1]"),
        ),
        "scalar": (
            toys.graph([sums], {"x": (toys.FLOAT, ["N"])}, {"y": (toys.FLOAT, [])}),
            toys.config("x FP32 [-1]", "y FP32 [1]", batch=0),
        ),
        "reshape": (
            toys.graph(
                reshape, {"x": (toys.FLOAT, ["N"]), "shape": (toys.INT64, ["R"])}, {"y": (toys.FLOAT, ["A", "C"])}
            ),
            toys.config("x FP32 [-1];shape INT64 [-1]", "y FP32 [-1,-1]", batch=0),
        ),
    }
    for name, (model, config) in models.items():
        toys.write(repository, name, model, config)
    external = toys.graph(matmul, {"x": (toys.FLOAT, ["B", 3])}, {"y": (toys.FLOAT, ["B", 3])}, {"table": square})
    toys.write(repository, "external", external, toys.config("x FP32 [3]", "y FP32 [3]"), external=True)
    renamed = toys.write(
        repository, "renamed", toys.double(["B", "N"]), toys.DOUBLE + 'default_model_filename: "r.onnx"'
    )
    (renamed / "model.onnx").rename(renamed / "r.onnx")
    toys.write(repository, "chain", None, toys.ensemble("double x=x > y=twice", "double x=twice > y=out"))
    for name in ("double", "pick"):
        model, config = models[name]
        assert config is not None
        folder = toys.write(repository, f"openvino_{name}", None, config.replace("onnxruntime", "openvino"))
        toys.save_openvino(model, folder / "model.xml")
    (repository / "recipe.json").write_text("{}")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("a repository")  # the space is meant: a shell reads this path
    write_toys(repository)
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with Server([repository], grpc_port=0, http_port=0, metrics_port=0, start_timeout=60, log=log) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[Any]:
    with grpc.InferenceServerClient(server.grpc_url) as connected:
        yield connected


Infer = Callable[..., dict[str, Array]]


@pytest.fixture(scope="session")
def infer(client: Any) -> Infer:
    """`infer(model, inputs..., outputs=None)`; inputs are called x unless given by keyword."""

    def call(model: str, x: Array, outputs: tuple[str, ...] | None = None, **more: Array) -> dict[str, Array]:
        inputs = []
        for name, array in {"x": x, **more}.items():
            kind = TYPES.get(str(array.dtype), str(array.dtype).upper())
            inputs.append(grpc.InferInput(name, array.shape, kind))
            inputs[-1].set_data_from_numpy(array)
        asked = None if outputs is None else [grpc.InferRequestedOutput(name) for name in outputs]
        result = client.infer(model, inputs, outputs=asked, client_timeout=20)
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    return call


Together = Callable[[str, list[Array]], list[Any]]


@pytest.fixture(scope="session")
def together(infer: Infer) -> Together:
    """Send requests at once; each answer is the output y, or the exception the client got."""

    def attempt(model: str, x: Array) -> Any:
        try:
            return infer(model, x)["y"]
        except grpc.InferenceServerException as error:
            return error

    def send(model: str, inputs: list[Array]) -> list[Any]:
        with ThreadPoolExecutor(len(inputs)) as pool:
            return list(pool.map(lambda x: attempt(model, x), inputs))

    return send


Serve = Callable[..., Running]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Running] = []

    def start(repository: Path, *options: str) -> Running:
        folder = tmp_path / f"serve{len(started)}"
        folder.mkdir()
        started.append(Running(folder, repository, *options))
        return started[-1]

    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.process.terminate()
        serving.process.wait(30)
