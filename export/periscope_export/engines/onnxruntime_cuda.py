"""ONNX Runtime's CUDA provider: what `backend: "onnxruntime"` is on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from periscope_export.engines.engine import GpuEngine

if TYPE_CHECKING:
    from periscope_export.engines.gpu import DeviceRun
    from periscope_export.fidelity.record import Run
    from periscope_export.graphs.precision import Precision


class OnnxRuntimeCuda(GpuEngine):
    """Graphs in the operators that the provider has its fastest kernels for."""

    name = "onnxruntime-cuda"
    template = "onnxruntime"
    precisions = ("fp16", "bf16")  # no fp32: on a GPU it would be TF32
    measured_with = "the graphs, in onnxruntime, on the GPU"

    def check(self, precision: Precision | None) -> None:
        """Raise `ExportError` where this machine's onnxruntime is too old to run what is written for it."""
        from periscope_export.graphs import cuda

        cuda.check()

    def missing(self) -> str:
        """See `Engine`: it takes a GPU, and onnxruntime's package for it."""
        from periscope_export.engines.cuda_session import missing_provider

        return missing_provider()

    def write(self, graph: Path) -> None:
        """See `Engine`."""
        from periscope_export.graphs import cuda

        cuda.convert(graph)

    def run(self, repository: Path, retriever: str, precision: Precision) -> Run:
        """See `Engine`: without a GPU on the CPU, but for bf16, for which the CPU has no kernels."""
        from periscope_export.engines.gpu import on_arrays
        from periscope_export.engines.onnxruntime import OnnxRuntime

        if self.missing() and OnnxRuntime.computes(precision):
            return OnnxRuntime().run(repository, retriever, precision)
        return on_arrays(self.on_device(repository, retriever))

    def on_device(self, repository: Path, retriever: str) -> DeviceRun:
        """See `GpuEngine`."""
        from periscope_export.engines.cuda_session import graphs_on_gpu

        return graphs_on_gpu(repository, retriever)
