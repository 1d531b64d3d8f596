"""A graph behind a Python-based backend: what the stand-ins share, whatever computes.

Importable only inside Triton's Python stub. Everything that can be decided without Triton lives in the modules beside
this one.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import triton_python_backend_utils as pb

from periscope_serve.backends.batch import Answer, Array, Request, RequestError, answer, client_message
from periscope_serve.backends.settings import SettingsError
from periscope_serve.backends.signature import Signature, SignatureError, check, complete, config_dims, is_complete


class Session(Protocol):
    """An opened graph."""

    signature: Signature

    def run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
        """Return the named outputs. The arrays are the caller's: a later run does not touch them."""


class GraphModel(ABC):
    """One instance of a graph, as Triton wants it; a stand-in says how a graph is opened, and its file's usual name."""

    FILE: str

    @classmethod
    @abstractmethod
    def open(cls, file: Path, config: dict[str, Any], kind: str = "CPU", device_id: str = "0") -> Session:
        """Open the graph. Raises `SettingsError`, or whatever the engine raises when it cannot load the file."""

    @classmethod
    def auto_complete_config(cls, auto_complete_model_config: Any) -> Any:
        """Fill in batching, inputs and outputs where the config names none."""
        config = auto_complete_model_config.as_dict()
        if not is_complete(config):
            try:
                complete(config, cls._opened(config).signature)
            except SignatureError as error:
                raise pb.TritonModelException(str(error)) from None
        return auto_complete_model_config

    @classmethod
    def _opened(cls, config: dict[str, Any], kind: str = "CPU", device_id: str = "0") -> Session:
        path = Path(pb.get_model_dir(), config.get("default_model_filename") or cls.FILE)
        if path.is_dir():
            path /= cls.FILE
        if not path.exists():
            raise pb.TritonModelException(f"failed to stat file {path}")
        try:
            return cls.open(path, config, kind, device_id)
        except (SettingsError, SignatureError) as error:
            raise pb.TritonModelException(str(error)) from None
        except Exception as error:
            raise pb.TritonModelException(f"{config['backend']} cannot load {path.name}: {error}") from None

    def initialize(self, args: dict[str, str]) -> None:
        """Open the graph and refuse a config that does not fit it."""
        config = json.loads(args["model_config"])
        # Threads take it over from the one that makes them: before there are any.
        os.nice(int(config.get("parameters", {}).get("nice", {}).get("string_value", 0)))
        self._session = self._opened(config, args["model_instance_kind"], args["model_instance_device_id"])
        signature = self._session.signature
        try:
            check(config, signature)
        except SignatureError as error:
            raise pb.TritonModelException(str(error)) from None
        self._batched = config["max_batch_size"] > 0
        self._inputs = {entry["name"]: signature.inputs.get(entry["name"]) for entry in config["input"]}
        self._scalars = {
            entry["name"]: config_dims(entry) for entry in config["output"] if not signature.outputs[entry["name"]].dims
        }

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests Triton joined; nothing raised in here may reach Triton, which would fail them all."""
        read = [self._read(request) for request in requests]
        answers = iter(answer([item for item in read if isinstance(item, Request)], self._run, self._batched))
        return [_response(next(answers) if isinstance(item, Request) else item) for item in read]

    def finalize(self) -> None:
        """Let the graph go."""
        del self._session

    def _run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
        return [
            output.reshape(self._scalars[name]) if name in self._scalars else output
            for name, output in zip(names, self._session.run(names, inputs), strict=True)
        ]

    def _read(self, request: Any) -> Request | RequestError:
        try:
            inputs = {}
            for name, info in self._inputs.items():
                tensor = pb.get_input_tensor_by_name(request, name)
                if tensor is not None:
                    array = tensor.as_numpy()
                    if array.dtype == np.object_:
                        array = _decoded(name, array)
                    inputs[name] = array.reshape(()) if info is not None and not info.dims else array
            return Request(inputs, tuple(request.requested_output_names()))
        except RequestError as error:
            return error
        except Exception as error:
            return RequestError(client_message(error))


def _decoded(name: str, array: Array) -> Array:
    """BYTES as graphs want them: text."""
    try:
        flat = [item.decode() if isinstance(item, bytes) else item for item in array.ravel()]
    except UnicodeDecodeError:
        raise RequestError(f"input '{name}' holds bytes that are not UTF-8, and ONNX strings are text") from None
    return np.array(flat, dtype=np.object_).reshape(array.shape)


def _response(result: Answer) -> Any:
    try:
        if not isinstance(result, RequestError):
            return pb.InferenceResponse([pb.Tensor(name, np.ascontiguousarray(a)) for name, a in result.items()])
        message = str(result)
    except Exception as error:
        message = client_message(error)
    return pb.InferenceResponse([], error=pb.TritonError(message))
