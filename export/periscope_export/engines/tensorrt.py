"""TensorRT: plans that are compiled here, and graphs that onnxruntime's provider for it compiles where they are served.

`tensorrt` compiles on the GPU that will serve, `tensorrt-rtx` anywhere; they have one API.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from periscope_export.engines.engine import Engine, GpuEngine, Options
from periscope_export.engines.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from periscope_export.engines.gpu import DeviceRun
    from periscope_export.fidelity.record import Run
    from periscope_export.graphs.precision import Precision
    from periscope_export.repository.profiles import Profile

PLAN_FILE = "model.plan"
LOG_FILE = "build.log"


class TensorRT(GpuEngine):
    """Plans of one of the builders, called by the name of its Python package."""

    template = "tensorrt"
    precisions = ("fp16", "bf16", "int8", "fp8")
    profiled = True
    compiled = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.measured_with = f"the {name} engines, on the GPU"

    def missing(self) -> str:
        """See `Engine`: plans run on a GPU only."""
        from periscope_export.engines.gpu import missing_gpu

        return missing_gpu()

    def compile(self, version: Path, profiles: Sequence[Profile], options: Options) -> tuple[dict[str, Any], Options]:
        """Write the plan of a graph beside it, and the builder's log."""
        from periscope_export.engines.tensorrt_builder import build_engine, load_builder
        from periscope_export.graphs.graph import GRAPH_FILE

        api = load_builder(self.name)
        plan = build_engine(api, version / GRAPH_FILE, profiles, options)
        (version / PLAN_FILE).write_bytes(plan.engine)
        (version / LOG_FILE).write_text("\n".join(plan.log) + "\n", encoding="utf-8")
        report = {
            "version": api.__version__,
            "strip_weights": options.strip_weights,
            "version_compatible": options.version_compatible,
            "attention_layers": plan.attention_layers,
        }
        return report, options._replace(timing_cache=plan.timing_cache)

    def tidy(self, versions: Mapping[str, Path], options: Options) -> None:
        """Remove the graphs that plans were made of, unless plans without weights are to be refitted from them."""
        from periscope_export.graphs.graph import GRAPH_FILE

        for version in versions.values():
            if (version / PLAN_FILE).exists() and not options.strip_weights:
                for path in version.glob(f"{GRAPH_FILE}*"):
                    path.unlink()

    def run(self, repository: Path, retriever: str, precision: Precision) -> Run:
        """See `Engine`: plans on the GPU, the graphs of steps that have none in ONNX Runtime."""
        from periscope_export.engines.tensorrt_plan import plan_runner

        return plan_runner(repository, retriever)

    def on_device(self, repository: Path, retriever: str) -> DeviceRun:
        """See `GpuEngine`."""
        from periscope_export.engines.tensorrt_plan import device_runner

        return device_runner(repository, retriever)


class OnnxRuntimeTensorRT(Engine):
    """Graphs that the server's onnxruntime compiles with TensorRT when it loads them, between the given lengths."""

    name = "onnxruntime-tensorrt"
    template = "onnxruntime_tensorrt"
    precisions = ("fp16", "bf16", "int8", "fp8")
    profiled = True
    measured_with = "the graphs, in onnxruntime, on the GPU"

    def missing(self) -> str:
        """Return why it does not run here, as ever: nothing is compiled at export."""
        return "it compiles graphs where they are served"

    def run(self, repository: Path, retriever: str, precision: Precision) -> Run:
        """See `Engine`: on the CPU, but for bf16, for which the CPU has no kernels."""
        if OnnxRuntime.computes(precision):
            return OnnxRuntime().run(repository, retriever, precision)
        from periscope_export.engines.cuda_session import graphs_on_gpu
        from periscope_export.engines.gpu import on_arrays

        return on_arrays(graphs_on_gpu(repository, retriever))
