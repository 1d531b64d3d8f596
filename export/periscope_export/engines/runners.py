"""What fidelity is measured with: the engine itself where it can run here, otherwise what comes closest to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from periscope_export.engines.cuda_run import graphs_on_gpu, missing_provider
from periscope_export.engines.openvino_run import openvino_runner
from periscope_export.engines.table import ENGINES
from periscope_export.engines.tensorrt_run import missing_gpu, on_arrays, plan_runner
from periscope_export.fidelity.record import Array, Run, graph_runner
from periscope_export.graphs.graph import module_runner
from periscope_export.graphs.precision import Precision, at, cast
from periscope_export.models.weights import load_step
from periscope_export.published import PublishedRetriever


def runner(
    retriever: PublishedRetriever, precision: Precision, engine: str, repository: Path, name: str
) -> tuple[str, Run]:
    """Return what measures an export, in words for `fidelity.json`, and the function that runs its steps."""
    if ENGINES[engine].builder is not None and not missing_gpu():
        return f"the {engine} engines, on the GPU", plan_runner(repository, name)
    if engine == "openvino":
        return "the graphs, in openvino, on the CPU", openvino_runner(repository, name)
    if engine == "onnxruntime-cuda" and not missing_provider():
        return "the graphs, in onnxruntime, on the GPU", on_arrays(graphs_on_gpu(repository, name))
    if precision == "bf16":
        # ONNX Runtime's CPU provider has no bf16 kernels.
        return "the towers in bf16, in torch, on the CPU", tower_runner(retriever, precision, repository)
    return "the graphs, in onnxruntime, on the CPU", graph_runner(repository, name)


def tower_runner(retriever: PublishedRetriever, precision: Precision, folder: Path | None = None) -> Run:
    """Return a function that runs the towers in a precision; each is loaded, on the disk of `folder`, when needed."""
    steps = {step.name: at(step, precision) for step in retriever.steps}
    modules: dict[str, nn.Module] = {}

    def run(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        if step not in modules:
            modules.clear()  # one tower in memory at a time
            modules[step] = cast(load_step(steps[step], retriever.checkpoint.weights, folder=folder), precision, folder)
        return module_runner(steps[step], modules[step])(step, tensors)

    return run
