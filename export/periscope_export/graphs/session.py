"""Running a graph in the memory of its activations, as weights of published sizes may not fit beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime


def frugal_session(path: Path) -> Any:
    """Open a graph in ONNX Runtime, on the CPU, so that its weights stay in their file.

    Served, a graph copies them at the start, to compute faster ever after; for a few samples the copies would take
    longer than they save. What is computed stays the same, but for rounding.
    """
    options = onnxruntime.SessionOptions()
    # No second copy of each matrix, in the order in which the product would like to read it.
    options.add_session_config_entry("session.disable_prepacking", "1")
    # CPUs compute fp16 in fp32. The last level would make all of it fp32 at the start, weights included, ...
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    # ... and this order makes each weight fp32 when its turn comes, not all of them before the first product.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # Sums of int8 products that fit, on processors without VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    # Nothing kept for a next run.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
