"""Graphs in OpenVINO on the CPU, as its Triton backend runs them: what fidelity of that engine is measured with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from periscope_export.fidelity.record import Array, Run, graph_runner
from periscope_export.graphs.openvino import GRAPH_FILE, core


def openvino_runner(repository: Path, retriever: str) -> Run:
    """Return a function that runs a repository's graphs: those served by OpenVINO in it, others in ONNX Runtime.

    One graph is in memory at a time. Raises `ExportError` where OpenVINO is not installed.
    """
    core()
    others = graph_runner(repository, retriever)
    compiled: dict[str, Any] = {}

    def run(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        graph_file = repository / f"{retriever}_{step}" / "1" / GRAPH_FILE
        if not graph_file.is_file():
            return others(step, tensors)
        if step not in compiled:
            compiled.clear()
            model = core().read_model(graph_file)
            names = [port.get_any_name() for port in model.inputs], [port.get_any_name() for port in model.outputs]
            compiled[step] = (core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"}), *names)
        graph, inputs, outputs = compiled[step]
        results = graph([np.ascontiguousarray(tensors[name]) for name in inputs])
        return {name: results[place].copy() for place, name in enumerate(outputs)}

    return run
