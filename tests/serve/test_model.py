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

BACKENDS = "periscope_serve.backends"
SHARED = f"{BACKENDS}.graph_model"


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


@pytest.fixture(params=["onnxruntime", "openvino"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def module(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
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
    name = f"{BACKENDS}.{backend}.model"
    for loaded in (name, SHARED):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    yield importlib.import_module(name)
    for loaded in (name, SHARED):
        sys.modules.pop(loaded, None)


def save(module: ModuleType, folder: Path) -> None:
    file = folder / module.TritonPythonModel.FILE
    (toys.save_openvino if file.suffix == ".xml" else onnx.save)(toys.double(["B", "N"]), file)


def arguments(outputs: tuple[str, ...] = ("y", "z"), **config: Any) -> dict[str, str]:
    tensor = {"data_type": "TYPE_FP32", "dims": [-1]}
    made = {
        "name": "m",
        "backend": "toy",
        "max_batch_size": 8,
        "input": [{"name": "x", **tensor}],
        "output": [{"name": name, **tensor} for name in outputs],
        **config,
    }
    return {"model_config": json.dumps(made), "model_instance_kind": "CPU", "model_instance_device_id": "0"}


@pytest.fixture
def model(module: ModuleType, tmp_path: Path) -> Any:
    save(module, tmp_path)
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
    response = sys.modules[SHARED]._response({"poison": rows(1)})
    assert (response.tensors, response.error) == ([], "no room in")


def test_a_missing_file_is_named(module: ModuleType) -> None:
    with pytest.raises(TritonModelException, match=r"failed to stat file .*model\.(onnx|xml)"):
        module.TritonPythonModel().initialize(arguments())


def test_a_folder_may_stand_for_the_model(module: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / module.TritonPythonModel.FILE
    folder.mkdir()
    save(module, folder)
    module.TritonPythonModel().initialize(arguments())


def test_a_complete_config_opens_no_session(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.TritonPythonModel, "open", lambda *_: pytest.fail("opened a session for nothing"))
    config = SimpleNamespace(as_dict=lambda: json.loads(arguments()["model_config"]))
    assert module.TritonPythonModel.auto_complete_config(config) is config


@pytest.mark.parametrize("backend", ["onnxruntime"], indirect=True)
def test_thread_settings_reach_onnxruntime(module: ModuleType, tmp_path: Path) -> None:
    save(module, tmp_path)
    model = module.TritonPythonModel()
    model.initialize(arguments(parameters={"intra_op_thread_count": {"string_value": "3"}}))
    assert model._session.session.get_session_options().intra_op_num_threads == 3
    model.finalize()


@pytest.mark.parametrize("backend", ["openvino"], indirect=True)
def test_settings_reach_openvino(module: ModuleType, tmp_path: Path) -> None:
    save(module, tmp_path)
    model = module.TritonPythonModel()
    given = {"INFERENCE_NUM_THREADS": "1", "HINT_BF16": "YES"}
    model.initialize(arguments(parameters={name: {"string_value": value} for name, value in given.items()}))
    compiled = model._session.request.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    model.finalize()


@pytest.mark.parametrize("backend", ["openvino"], indirect=True)
def test_a_missing_openvino_names_the_extra(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(module, tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(TritonModelException, match=r"pip install '\.\[openvino\]' in a checkout"):
        module.TritonPythonModel().initialize(arguments())


def test_gives_way_before_it_has_threads(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(module, tmp_path)
    happened: list[Any] = []
    opened = module.TritonPythonModel.open

    def note(*given: Any) -> Any:
        happened.append("opened")
        return opened(*given)

    monkeypatch.setattr("os.nice", happened.append)
    monkeypatch.setattr(module.TritonPythonModel, "open", note)
    module.TritonPythonModel().initialize(arguments(parameters={"nice": {"string_value": "10"}}))
    assert happened == [10, "opened"]


def test_a_later_run_leaves_an_answer_alone(model: Any) -> None:
    """OpenVINO writes every run's outputs into the same memory."""
    (first,) = model.execute([Request(rows(1))])
    model.execute([Request(rows(5))])
    assert first.tensors[0].array.tolist() == [[2]]
