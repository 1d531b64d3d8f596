"""OpenVINO on the CPU, as its Triton backend runs graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from periscope_export.engines.engine import Engine
from periscope_export.graphs import openvino as graphs

if TYPE_CHECKING:
    from periscope_export.fidelity.record import Array, Run
    from periscope_export.graphs.precision import Precision


class OpenVINO(Engine):
    """Towers in OpenVINO's own form, stored in float32; it computes in bfloat16 where that loses little."""

    name = "openvino"
    template = "openvino"
    precisions = ("bf16", "int8")
    default = "bf16"
    graphs = "fp32"
    keeps_prefixes = True
    measured_with = "the graphs, in openvino, on the CPU"

    def check(self, precision: Precision | None) -> None:
        """Raise `ExportError` where it is not installed, or computes wrongly in a precision, on this processor."""
        graphs.check(precision)

    def missing(self) -> str:
        """Return "": `check` has seen to it."""
        return ""

    def write(self, graph: Path) -> None:
        """Write its own form in place of an ONNX graph."""
        graphs.convert(graph)

    def run(self, repository: Path, retriever: str, precision: Precision) -> Run:
        """See `Engine`: graphs that are in its form run in it, others in ONNX Runtime; one is in memory at a time."""
        from periscope_export.fidelity.record import graph_runner

        graphs.check(precision)
        others = graph_runner(repository, retriever)
        compiled: dict[str, Any] = {}

        def run(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
            graph_file = repository / f"{retriever}_{step}" / "1" / graphs.GRAPH_FILE
            if not graph_file.is_file():
                return others(step, tensors)
            if step not in compiled:
                compiled.clear()
                model = graphs.core().read_model(graph_file)
                names = [port.get_any_name() for port in model.inputs], [port.get_any_name() for port in model.outputs]
                settings = {"INFERENCE_PRECISION_HINT": "bf16"}
                compiled[step] = (graphs.core().compile_model(model, "CPU", settings), *names)
            graph, inputs, outputs = compiled[step]
            results = graph([np.ascontiguousarray(tensors[name]) for name in inputs])
            return {name: results[place].copy() for place, name in enumerate(outputs)}

        return run
