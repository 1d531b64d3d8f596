"""The stand-in for `backend: "openvino"`: the wheel of OpenVINO behind a Python-based backend.

Triton imports a copy of this file, in the interpreter that also holds `periscope_serve`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from periscope_runtime.int8_products import exact, quantised
from periscope_serve.backends.batch import Array
from periscope_serve.backends.graph_model import GraphModel, Session
from periscope_serve.backends.openvino.mapped_weights import release
from periscope_serve.backends.openvino.settings import properties
from periscope_serve.backends.settings import SettingsError
from periscope_serve.backends.signature import TRITON_TYPES, Signature, TensorInfo


class OpenVinoSession:
    """A graph in OpenVINO."""

    def __init__(self, file: Path, chosen: dict[str, str]) -> None:
        try:
            import openvino
        except ImportError as error:
            raise SettingsError(
                f"openvino cannot be imported ({error}). Install it where `periscope serve` runs: "
                "pip install '.[openvino]' in a checkout of Periscope"
            ) from None
        # Kept: a core that ends unloads libraries of which its threads may still be in need.
        self._core = openvino.Core()
        model = self._core.read_model(file)
        if quantised(model) and not exact(openvino, self._core):
            raise SettingsError(
                "its products are of int8, which this processor adds up wrongly: it has no VNNI. Serve it on one that "
                "has, or export in another precision"
            )
        inputs, outputs = _infos(model.inputs), _infos(model.outputs)
        self.signature = Signature(inputs, {}, outputs)
        # By place: compiled graphs may call their tensors by further names.
        self._inputs, self._outputs = list(inputs), {name: place for place, name in enumerate(outputs)}
        self.request = self._core.compile_model(model, "CPU", chosen).create_infer_request()
        self._weights: Path | None = file.with_suffix(".bin")

    def run(self, names: list[str], inputs: dict[str, Array]) -> list[Array]:
        """Return the named outputs."""
        feed = {place: np.ascontiguousarray(inputs[name]) for place, name in enumerate(self._inputs)}
        self.request.infer(feed, share_inputs=True)
        if self._weights is not None:
            release(self._weights)
            self._weights = None
        return [self.request.get_output_tensor(self._outputs[name]).data.copy() for name in names]


def _infos(ports: Any) -> dict[str, TensorInfo]:
    infos = {}
    for port in ports:
        dims = tuple(dim.get_length() if dim.is_static else -1 for dim in port.get_partial_shape())
        element = str(port.get_element_type().get_type_name())
        infos[port.get_any_name()] = TensorInfo(TRITON_TYPES.get(_ELEMENTS.get(element, element), "TYPE_INVALID"), dims)
    return infos


# OpenVINO's short words for what numpy and ONNX write out.
_ELEMENTS = {
    "boolean": "bool",
    "f16": "float16",
    "f32": "float",
    "f64": "double",
    "bf16": "bfloat16",
    **{f"{kind[0]}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}


class TritonPythonModel(GraphModel):
    """One instance of a graph in OpenVINO."""

    FILE = "model.xml"

    @classmethod
    def open(cls, file: Path, config: dict[str, Any], kind: str = "CPU", device_id: str = "0") -> Session:
        """Compile the graph."""
        return OpenVinoSession(file, properties(config, kind))
