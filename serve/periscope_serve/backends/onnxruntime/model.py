"""The stand-in for `backend: "onnxruntime"`: the wheel of onnxruntime behind a Python-based backend.

Triton imports a copy of this file, in the interpreter that also holds `periscope_serve`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from periscope_serve.backends.batch import Array
from periscope_serve.backends.graph_model import GraphModel, Session
from periscope_serve.backends.onnxruntime.settings import Settings, providers
from periscope_serve.backends.signature import Signature


class OnnxRuntimeSession:
    """A graph in onnxruntime."""

    def __init__(self, file: Path, settings: Settings, kind: str, device_id: str) -> None:
        # onnxruntime is imported here because Triton starts a process per model just to complete its config, and
        # most configs are complete.
        import onnxruntime

        chosen = providers(kind, device_id, onnxruntime.get_available_providers())
        self.session = onnxruntime.InferenceSession(str(file), settings.session_options(), providers=chosen)
        self._options = settings.run_options()
        self.signature = Signature.of(self.session)

    def run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
        """Return the named outputs."""
        outputs: list[Array] = self.session.run(names, inputs, self._options)
        return outputs


class TritonPythonModel(GraphModel):
    """One instance of an ONNX model."""

    FILE = "model.onnx"

    @classmethod
    def open(cls, file: Path, config: dict[str, Any], kind: str = "CPU", device_id: str = "0") -> Session:
        """Open the session."""
        return OnnxRuntimeSession(file, Settings.of(config), kind, device_id)
