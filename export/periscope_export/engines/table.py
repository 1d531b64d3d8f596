"""Engines: what runs the graphs of a repository, and what each of them needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from periscope_export.graphs import cuda as cuda_graph
from periscope_export.graphs import openvino as openvino_graph
from periscope_export.graphs.precision import Precision


@dataclass(frozen=True)
class Engine:
    """How graphs are served.

    `template` is the part of a step's config that differs between engines, in `model_repository/graph/`. `builder` is
    the package that compiles graphs to plans, None where graphs are served as they are. `precisions` are those that it
    computes in; of several without a `default`, the checkpoint's own activations decide (`activations.py`). A
    `profiled` engine works between the lengths of its profiles only. `form` rewrites a tower's graph where it lies, for
    this engine alone. `check` raises `ExportError` where this machine cannot measure fidelity in a precision. `graphs`
    is the precision that graphs are stored in where the engine makes its own of them when it loads them; heads are then
    left to onnxruntime, in float32. `keeps_prefixes`: the language model keeps the prefixes that prompts
    share (`kept_prefixes.py`), which is worth a mask where tokens cost more than the weights that are read for them.
    """

    template: str
    precisions: tuple[Precision, ...]
    default: Precision | None = None
    builder: str | None = None
    profiled: bool = True
    form: Callable[[Path], Path] | None = None
    check: Callable[[Precision | None], None] = lambda _: None
    graphs: Precision | None = None
    keeps_prefixes: bool = False

    def holds_weights_in(self, precision: Precision, tower: bool) -> Precision:
        """Return what the weights of a tower, or of a head, have to fit into: int8 and fp8 leave some as they were."""
        if self.graphs is None:
            return precision
        # What it makes of its own of a stored graph, unless asked for less.
        return self.default or precision if tower else self.graphs

    @property
    def extra(self) -> str:
        """The extra of this package that brings the builder."""
        return "tensorrt-rtx" if self.builder == "tensorrt_rtx" else "gpu"


ENGINES = {
    "onnxruntime": Engine("onnxruntime", ("fp32", "fp16"), default="fp32", profiled=False),
    # No fp32: on a GPU it would be TF32.
    "onnxruntime-cuda": Engine(
        "onnxruntime",
        ("fp16", "bf16"),
        profiled=False,
        form=cuda_graph.convert,
        check=cuda_graph.check,
    ),
    "openvino": Engine(
        "openvino",
        ("bf16", "int8"),
        default="bf16",
        profiled=False,
        form=openvino_graph.convert,
        check=openvino_graph.check,
        graphs="fp32",
        keeps_prefixes=True,
    ),
    "onnxruntime-tensorrt": Engine("onnxruntime_tensorrt", ("fp16", "bf16", "int8", "fp8")),
    "tensorrt": Engine("tensorrt", ("fp16", "bf16", "int8", "fp8"), builder="tensorrt"),
    "tensorrt-rtx": Engine("tensorrt", ("fp16", "bf16", "int8", "fp8"), builder="tensorrt_rtx"),
}
