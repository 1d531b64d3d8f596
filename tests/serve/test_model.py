"""The class Triton calls, with Triton's Python API played by a few lines: nothing may escape `execute`."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from serve import toys

MODULE = "periscope_serve.backends.onnxruntime.model"


class Tensor:
    def __init__(self, name: str, array: Any):
        if name == "poison":
            raise MemoryError("no room in /dev/shm/region")
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        if isinstance(self.array, Exception):
            raise self.array
        return self.array


class Request:
    def __init__(self, x: Any, *outputs: str):
        self.tensors = {"x": Tensor("x", x)}
        self.outputs = outputs or ("y",)

    def requested_output_names(self) -> tuple[str, ...]:
        return self.outputs


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    pass


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    fake = ModuleType("triton_python_backend_utils")
    fake.__dict__.update(
        get_model_dir=lambda: str(tmp_path),
        get_input_tensor_by_name=lambda request, name: request.tensors.get(name),
        Tensor=Tensor,
        TritonError=lambda message: message,
        TritonModelException=TritonModelException,
        InferenceResponse=lambda tensors, error=None: SimpleNamespace(tensors=tensors, error=error),
    )
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield importlib.import_module(MODULE)
    sys.modules.pop(MODULE, None)


def arguments(outputs: tuple[str, ...] = ("y", "z"), **config: Any) -> dict[str, str]:
    tensor = {"data_type": "TYPE_FP32", "dims": [-1]}
    made = {
        "name": "m",
        "max_batch_size": 8,
        "input": [{"name": "x", **tensor}],
        "output": [{"name": name, **tensor} for name in outputs],
        **config,
    }
    return {"model_config": json.dumps(made), "model_instance_kind": "CPU", "model_instance_device_id": "0"}


@pytest.fixture
def model(module: ModuleType, tmp_path: Path) -> Any:
    onnx.save(toys.double(["B", "N"]), tmp_path / "model.onnx")
    made = module.TritonPythonModel()
    made.initialize(arguments())
    return made


def rows(*values: float) -> Any:
    return np.array(values, np.float32)[:, None]


def test_answers_in_order(model: Any) -> None:
    first, second = model.execute([Request(rows(1)), Request(rows(2, 3), "z", "y")])
    assert [(tensor.name, tensor.array.tolist()) for tensor in first.tensors] == [("y", [[2]])]
    assert [(tensor.name, tensor.array.tolist()) for tensor in second.tensors] == [
        ("z", [[-2], [-3]]),
        ("y", [[4], [6]]),
    ]


def test_a_request_that_cannot_be_read_fails_alone(model: Any) -> None:
    unreadable = Request(RuntimeError("broken at /srv/file.py:3 x"))
    first, bad, last = model.execute([Request(rows(1)), unreadable, Request(rows(3))])
    assert first.tensors[0].array.tolist() == [[2]]
    assert (bad.tensors, bad.error) == ([], "broken at x")
    assert last.tensors[0].array.tolist() == [[6]]


def test_an_answer_that_cannot_be_sent_is_an_error(module: ModuleType) -> None:
    response = module._response({"poison": rows(1)})
    assert (response.tensors, response.error) == ([], "no room in")


def test_a_missing_file_is_named(module: ModuleType) -> None:
    with pytest.raises(TritonModelException, match=r"failed to stat file .*model\.onnx"):
        module.TritonPythonModel().initialize(arguments())


def test_a_folder_may_stand_for_the_model(module: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    onnx.save(toys.double(["B", "N"]), tmp_path / "model.onnx" / "model.onnx")
    module.TritonPythonModel().initialize(arguments())


def test_a_complete_config_opens_no_session(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_open", lambda *_: pytest.fail("opened a session for nothing"))
    config = SimpleNamespace(as_dict=lambda: json.loads(arguments()["model_config"]))
    assert module.TritonPythonModel.auto_complete_config(config) is config


def test_thread_settings_reach_the_session(module: ModuleType, tmp_path: Path) -> None:
    onnx.save(toys.double(["B", "N"]), tmp_path / "model.onnx")
    model = module.TritonPythonModel()
    model.initialize(arguments(parameters={"intra_op_thread_count": {"string_value": "3"}}))
    assert model._session.get_session_options().intra_op_num_threads == 3
    model.finalize()
