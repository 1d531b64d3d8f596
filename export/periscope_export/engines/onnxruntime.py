"""ONNX Runtime on the CPU, which is also what most others are measured with where they cannot run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from periscope_export.engines.engine import Engine

if TYPE_CHECKING:
    from periscope_export.fidelity.record import Run
    from periscope_export.graphs.precision import Precision


class OnnxRuntime(Engine):
    """Graphs as they are, on the CPU."""

    name = "onnxruntime"
    template = "onnxruntime"
    precisions = ("fp32", "fp16")
    default = "fp32"
    measured_with = "the graphs, in onnxruntime, on the CPU"

    def missing(self) -> str:
        """Return "": it is installed with Periscope."""
        return ""

    def run(self, repository: Path, retriever: str, precision: Precision) -> Run:
        """See `Engine`; one graph is in memory at a time."""
        from periscope_export.fidelity.record import graph_runner

        return graph_runner(repository, retriever)

    @staticmethod
    def computes(precision: Precision) -> bool:
        """Return whether it has kernels for a precision, also one that it does not serve: none for bf16 on the CPU."""
        return precision != "bf16"
