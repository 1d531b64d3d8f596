"""Runs plans on the GPU of this machine, one step at a time, on numpy arrays: to measure how close they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from periscope_export.engines.engine import ENGINE_FILE
from periscope_export.engines.gpu import DeviceRun, Tensors, missing_gpu, on_arrays
from periscope_export.engines.tensorrt import PLAN_FILE
from periscope_export.engines.tensorrt_builder import called, load_builder, logger
from periscope_export.errors import ExportError
from periscope_export.fidelity.record import Array, Run, graph_runner

_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}


def plan_runner(repository: Path, retriever: str) -> Run:
    """Return a function that runs the plans of a repository, and the graphs of steps that have none in ONNX Runtime.

    Raises `ExportError` where there is no GPU.
    """
    graphs = graph_runner(repository, retriever)
    plans = on_arrays(device_runner(repository, retriever))

    def run(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return (plans if _plan(repository, retriever, step).is_file() else graphs)(step, tensors)

    return run


def device_runner(repository: Path, retriever: str) -> DeviceRun:
    """Return a function that runs the plans of a repository on tensors, and leaves what they give on the GPU.

    Raises `ExportError` where there is no GPU.
    """
    if missing := missing_gpu():
        raise ExportError(f"engine: plans run on a GPU only, and {missing}.")
    plans: dict[str, LoadedPlan] = {}

    def run(step: str, tensors: Tensors) -> dict[str, torch.Tensor]:
        if step not in plans:
            plans[step] = LoadedPlan(_plan(repository, retriever, step))
        return plans[step](tensors)

    return run


def _plan(repository: Path, retriever: str, step: str) -> Path:
    return repository / f"{retriever}_{step}" / "1" / PLAN_FILE


class LoadedPlan:
    """An engine on the GPU, with an execution context for each of its profiles."""

    def __init__(self, plan: Path) -> None:
        """Load it. Raises `ExportError` where the runtime refuses it, as for another GPU or version."""
        report = json.loads((plan.parent / ENGINE_FILE).read_text(encoding="utf-8"))
        self._api = load_builder(report["engine"])
        self._profiles = [profile["shapes"] for profile in report["profiles"]]
        log = logger(self._api)
        log.clear()
        self._runtime = self._api.Runtime(log)
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise ExportError(f"engine: {called(plan)} cannot be loaded: {'; '.join(log.errors)}. Build it here.")
        self._name = called(plan)
        self._contexts: dict[int, Any] = {}

    def __call__(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Run on tensors by name, of which it takes its inputs; outputs stay on the GPU, in their own dtype."""
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == self._api.TensorIOMode.INPUT]
        given = {name: tensors[name].to("cuda", self._dtype(name)).contiguous() for name in inputs}
        context = self._context(
            covering(self._profiles, {name: tuple(given[name].shape) for name in inputs}, self._name)
        )
        for name, tensor in given.items():
            context.set_input_shape(name, tuple(tensor.shape))
            # An empty tensor has no address, and TensorRT wants one.
            context.set_tensor_address(name, (tensor if tensor.numel() else torch.empty(1, device="cuda")).data_ptr())
        outputs = {
            name: torch.empty(tuple(context.get_tensor_shape(name)), dtype=self._dtype(name), device="cuda")
            for name in names
            if name not in given
        }
        for name, tensor in outputs.items():
            context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream()
        if not context.execute_async_v3(stream.cuda_stream):
            raise ExportError(f"engine: {self._name} failed: {'; '.join(logger(self._api).errors)}.")
        stream.synchronize()
        return outputs

    def _dtype(self, name: str) -> torch.dtype:
        return _DTYPES[self._engine.get_tensor_dtype(name).name]

    def _context(self, profile: int) -> Any:
        if profile not in self._contexts:
            context = self._engine.create_execution_context()
            context.set_optimization_profile_async(profile, torch.cuda.current_stream().cuda_stream)
            torch.cuda.current_stream().synchronize()
            self._contexts[profile] = context
        return self._contexts[profile]


def covering(profiles: Sequence[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    """Return the number of the first profile between whose smallest and largest shapes all of these are.

    Raises `ExportError` where there is none.
    """
    for number, profile in enumerate(profiles):
        bounds = ((shape, profile[tensor][0], profile[tensor][2]) for tensor, shape in shapes.items())
        if all(low <= length <= high for item in bounds for length, low, high in zip(*item, strict=True)):
            return number
    raise ExportError(f"engine: no profile of {name} covers {dict(shapes)}. Build it for these lengths.")
