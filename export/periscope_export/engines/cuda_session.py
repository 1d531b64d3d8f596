"""Runs graphs in onnxruntime's CUDA provider, a step at a time: what `backend: "onnxruntime"` is on a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch.utils.dlpack import from_dlpack

from periscope_export.engines.gpu import DeviceRun, Tensors, missing_gpu
from periscope_export.errors import ExportError

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(bfloat16)": torch.bfloat16,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}
# onnx.TensorProto's numbers: numpy has no word for bfloat16.
_ELEMENTS = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.bfloat16: 16,
}
# Operators whose work is the model's. Shapes, and what else is a few numbers, onnxruntime leaves to the CPU on purpose.
_COMPUTES = ("Attention", "MatMul", "Gemm", "Conv", "Softmax", "LayerNormalization", "RMSNormalization", "Gelu")


def missing_provider() -> str:
    """Return why this machine has no CUDA provider, "" where it has one."""
    if missing := missing_gpu():
        return missing
    if CUDA not in onnxruntime.get_available_providers():
        return "this onnxruntime has no CUDA provider. Install onnxruntime-gpu in place of onnxruntime"
    return ""


def graphs_on_gpu(repository: Path, retriever: str) -> DeviceRun:
    """Return a function that runs the graphs of a repository on tensors, and leaves what they give on the GPU.

    Raises `ExportError` where there is no GPU or no CUDA provider.
    """
    if missing := missing_provider():
        raise ExportError(f"engine: {missing}.")
    graphs: dict[str, LoadedGraph] = {}

    def run(step: str, tensors: Tensors) -> dict[str, torch.Tensor]:
        if step not in graphs:
            graphs[step] = LoadedGraph(repository / f"{retriever}_{step}" / "1" / "model.onnx")
        return graphs[step](tensors)

    return run


class LoadedGraph:
    """A graph on a device, with its inputs and outputs there."""

    def __init__(self, path: Path, device: str = "cuda") -> None:
        """Open it. Raises `ExportError` where the provider leaves products or attention to the CPU."""
        self._device = torch.device(device)
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self._device.type == "cuda":
            onnxruntime.preload_dlls()  # those of torch, or of the packages nvidia-*
        chosen = [CUDA, CPU] if self._device.type == "cuda" else [CPU]
        self._session = onnxruntime.InferenceSession(str(path), options, providers=chosen)
        # If the provider cannot be loaded, onnxruntime prints a line and goes on without it.
        if self._session.get_providers() != chosen:
            raise ExportError(f"engine: onnxruntime's {chosen[0]} cannot be loaded here; the lines above say why.")
        self.operators = _operators(self._session)
        if self._device.type == "cuda" and (left := left_to_cpu(self.operators)):
            raise ExportError(
                f"engine: onnxruntime's CUDA provider leaves to the CPU, of {path.parent.parent.name}: {left}. "
                "Export in another precision, or install a newer onnxruntime-gpu."
            )
        self._inputs = {node.name: _DTYPES[node.type] for node in self._session.get_inputs()}
        self._outputs = [node.name for node in self._session.get_outputs()]

    def __call__(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Run on tensors by name, of which it takes its inputs; outputs stay on the device, in their own dtype."""
        given = {name: tensors[name].to(self._device, dtype).contiguous() for name, dtype in self._inputs.items()}
        if self._device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # onnxruntime has a stream of its own
        binding = self._session.io_binding()
        for name, tensor in given.items():
            # An empty tensor has no address, and onnxruntime wants one.
            address = (tensor if tensor.numel() else torch.empty(1, device=self._device)).data_ptr()
            shape = tuple(tensor.shape)
            binding.bind_input(name, self._device.type, 0, _ELEMENTS[tensor.dtype], shape, address)
        for name in self._outputs:
            binding.bind_output(name, self._device.type, 0)
        self._session.run_with_iobinding(binding)
        found = zip(self._outputs, binding.get_outputs(), strict=True)
        return {name: from_dlpack(value) for name, value in found}


def left_to_cpu(operators: Mapping[str, Counter[str]]) -> dict[str, int]:
    """Return how many operators of those that do a model's work are the CPU provider's."""
    return {name: count for name, count in operators.get(CPU, Counter()).items() if name.endswith(_COMPUTES)}


def _operators(session: Any) -> dict[str, Counter[str]]:
    """Count, of each provider, its operators after onnxruntime's own fusions."""
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return found
