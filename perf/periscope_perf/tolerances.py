"""The distance of each precision from fp32, on random checkpoints of several depths and seeds: tolerances rest on it.

    make tolerances

exports every recipe's random checkpoints, and the demonstration's retriever, in every precision and engine that this
machine computes, whatever the recipe allows, and prints a row of a Markdown table for each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from periscope_client.console import guarded
from periscope_demo.shipped import SHIPPED_RECIPE, shipped_checkpoint
from periscope_export.engines.runners import tower_runner
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_export.fidelity.closeness import measure
from periscope_export.fidelity.gate import FidelityError, problems
from periscope_export.fidelity.record import GOLDEN_FILE, Measured, read_fidelity, read_golden
from periscope_export.graphs.precision import Precision
from periscope_export.models.towers import Towers
from periscope_export.published import open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_testing.system import Shape
from periscope_testing.systems import SYSTEMS

# Depths of both towers, and standard deviations of weights; errors grow with both. Published ones are 12 to 36 layers
# deep, and 0.02 is what most were initialised with.
DEPTHS = (2, 4, 8)
DEVIATIONS = (0.06, 0.1)


# By recipe.
_MAKERS = {system.recipe: system.shaped for system in SYSTEMS.values() if system.shaped}

# Engines that show the effect of a precision on a CPU: Triton's, or the towers in torch, which take less time.
_TORCH = "torch"
_SHOWN_BY: dict[Precision, tuple[str, ...]] = {
    "fp32": ("onnxruntime",),
    "fp16": (_TORCH,),
    "bf16": (_TORCH, "openvino"),
    "int8": ("openvino",),
    "fp8": ("onnxruntime-tensorrt",),
}


class Row(NamedTuple):
    """One line of the table."""

    recipe: str
    weights: str
    precision: str
    engine: str
    max_abs_error: float
    min_cosine: float
    mean_cosine: float
    score: float
    swapped_gap: float
    median_gap: float
    passes: str

    def __str__(self) -> str:
        numbers = f"{self.max_abs_error:.1e} | {self.min_cosine:.5f} | {self.mean_cosine:.5f}"
        scores = f"{self.score:.1e} | {self.swapped_gap:.1e} | {self.median_gap:.1e}"
        return f"| {' | '.join(self[:4])} | {numbers} | {scores} | {self.passes} |"


def main() -> int:
    """Print the table; 0 when the recipes' tolerances let all pass, else 1."""
    parser = argparse.ArgumentParser(prog="python -m periscope_perf.tolerances", description=main.__doc__)
    parser.add_argument("--recipe", nargs="+", choices=[*_MAKERS, SHIPPED_RECIPE], default=[*_MAKERS, SHIPPED_RECIPE])
    parser.add_argument("--precision", nargs="+", choices=list(_SHOWN_BY), default=list(_SHOWN_BY))
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--deviations", type=float, nargs="+", default=DEVIATIONS)
    parser.add_argument("--seeds", type=int, default=2, help="random checkpoints of each recipe, depth and deviation")
    arguments = parser.parse_args()
    shapes = [
        Shape(depth, deviation, seed)
        for depth in arguments.depths
        for deviation in arguments.deviations
        for seed in range(arguments.seeds)
    ]
    passed = True
    print(f"| {' | '.join(Row._fields)} |\n|{'---|' * len(Row._fields)}", flush=True)
    for recipe in arguments.recipe:
        for shape in [None] if recipe == SHIPPED_RECIPE else shapes:
            with tempfile.TemporaryDirectory() as folder:
                scratch = Path(folder)
                made = shipped_checkpoint() if shape is None else _MAKERS[recipe](scratch / "checkpoint", shape)
                weights = "demonstration" if shape is None else str(shape)
                for row in rows(recipe, weights, made, arguments.precision, scratch):
                    print(row, flush=True)
                    passed &= row.passes == "yes"
    return 0 if passed else 1


def rows(recipe: str, weights: str, checkpoint: Path, precisions: Sequence[Precision], scratch: Path) -> Iterator[Row]:
    """Yield a row for each precision that the recipe has, and each engine that this machine computes it in."""
    tolerance = load_recipe(recipe).tolerance

    def exported(precision: Precision, engine: str) -> Measured:
        request = Request(
            str(checkpoint), recipe, scratch / f"{precision}-{engine}", precision=precision, engine=engine
        )
        try:
            measured: Measured = read_fidelity(export(request, lambda _: None))["measured"]
        except FidelityError as refused:
            return refused.measured
        return measured

    def towers(precision: Precision) -> Measured:
        retriever = open_retriever(str(checkpoint), recipe)
        golden = read_golden(scratch / "fp32-onnxruntime" / GOLDEN_FILE)
        order = {step.name: [path.name for path in step.paths] for step in retriever.steps}
        return measure(
            golden, order, tower_runner(Towers(retriever.steps, retriever.checkpoint.weights, scratch), precision)
        )

    for precision in dict.fromkeys(("fp32", *precisions)):
        for shown_by in _SHOWN_BY[precision] if precision in tolerance else ():
            try:
                measured = towers(precision) if shown_by == _TORCH else exported(precision, shown_by)
            except ExportError as error:
                print(f"{recipe}, {weights}, {precision} in {shown_by}: {error}", file=sys.stderr)
                continue
            vectors, retrieval = measured["vectors"], measured["retrieval"]
            yield Row(
                *(recipe, weights, precision, shown_by),
                *(vectors["max_abs_error"], vectors["min_cosine"], vectors["mean_cosine"]),
                *(retrieval["max_error_by_token"], retrieval["largest_swapped_gap"], retrieval["median_gap"]),
                "no" if problems(measured, tolerance[precision]) else "yes",
            )


if __name__ == "__main__":
    sys.exit(guarded("tolerances", main))
