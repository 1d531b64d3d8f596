"""A retriever on the GPU of this machine: how close, how good, how fast, beside the published code.

    make gpu-check

exports the demonstration's retriever for ONNX Runtime (fp32, on the CPU: what everything is compared with) and for
TensorRT, or ONNX Runtime's CUDA provider, in fp16 and bf16; runs these and the published code in bf16 on the same pages
and queries; and writes a CSV file for each engine and precision. Without a GPU it says so. `--weights` takes random
weights of the published widths in place of the demonstration: how fast, and how close, not how good.
Q queries, N pages, T tokens, K dimensions.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import torch

from periscope_client.console import guarded
from periscope_demo.evaluation import EvaluationSet, make_evaluation, measure
from periscope_demo.shipped import SHIPPED_RECIPE, shipped_checkpoint
from periscope_export.engines.gpu import missing_gpu
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, Say, export, progress
from periscope_export.fidelity import record as fidelity
from periscope_export.fidelity.closeness import distance
from periscope_export.graphs.precision import Precision
from periscope_perf.gpu.sides import BATCH, GPU_ENGINES, NAME, Published, Side, Vectors, on_cpu, on_gpu
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import QWEN2_VL_2B, QWEN2_VL_2B_WIDTHS

# Random weights of the published widths: of four layers each, or of as many as published.
WEIGHTS = {"wide": QWEN2_VL_2B_WIDTHS, "full": QWEN2_VL_2B}

# Width and height in pixels: a sheet of A4 at 78 dots an inch.
PAGE = (640, 896)


@dataclass(frozen=True)
class Row:
    """One line of the results: what ran where, its quality beside its speed."""

    measured_at: str
    device: str
    weights: str
    engine: str
    precision: str
    versions: str
    page_ms: float
    pages_per_s: float
    query_ms: float
    max_abs_error: float
    min_cosine: float
    late_ndcg5: float
    dense_ndcg5: float
    command: str


@dataclass(frozen=True)
class Subject:
    """A checkpoint that is checked, its recipe, and its questions; `weights` as results call it.

    `trained` where a ranking says something; `command` is what a reader types to get the same.
    """

    weights: str
    checkpoint: Path
    recipe: str
    wanted: EvaluationSet
    trained: bool = True
    command: str = "make gpu-check"


def demonstration(pages: int = 60, queries: int = 40) -> Subject:
    """The demonstration's retriever."""
    return Subject("demo", shipped_checkpoint(), SHIPPED_RECIPE, make_evaluation(pages, queries))


def at_width(folder: Path, layers: str, say: Say = print) -> Subject:
    """ColQwen2 of the published 2B widths with random weights, written to `folder`; see `WEIGHTS`."""
    say(f"writing random weights of {layers}")
    sizes = replace(WEIGHTS[layers], dtype=torch.bfloat16)
    checkpoint = make_colqwen2(folder / "checkpoint", sizes, adapter=None)
    return Subject(layers, checkpoint, SHIPPED_RECIPE, make_evaluation(BATCH, BATCH, size=PAGE), trained=False)


def check(
    folder: Path,
    subject: Subject,
    engines: Mapping[Precision, str],
    compiled: Callable[[Path, EvaluationSet], Side],
    published: Callable[[], Side] | None = None,
    rounds: int = 30,
    say: Say = print,
) -> list[Row]:
    """Export, compare and time. `engines` are those to export for; `compiled` runs such a repository.

    The first row is ONNX Runtime's on the CPU, in float32, and the last that of the published code, if it is given.
    Raises `ExportError` for everything that an export refuses.
    """

    def exported(engine: str, precision: Precision) -> Path:
        output = folder / f"{engine}-{precision}"
        if output.is_dir():
            return output
        request = Request(
            str(subject.checkpoint), subject.recipe, output, name=NAME, precision=precision, engine=engine
        )
        return export(request, say)

    rows: list[Row] = []

    def compare(side: Side, truth: Vectors, rounds: int) -> None:
        say(f"{side.engine} {side.precision}: comparing and timing")
        rows.append(_row(side, side.vectors() if rows else truth, truth, subject, rounds))
        say(_line(rows[-1]))

    reference = on_cpu(exported("onnxruntime", "fp32"), subject.wanted)
    truth = reference.vectors()
    compare(reference, truth, rounds if subject.trained else 1)
    for precision, engine in engines.items():
        compare(compiled(exported(engine, precision), subject.wanted), truth, rounds)
    if published is not None:
        compare(published(), truth, rounds)
    return rows


def _row(side: Side, found: Vectors, truth: Vectors, subject: Subject, rounds: int) -> Row:
    largest = distance(list(zip([*found.late, *found.dense], [*truth.late, *truth.dense], strict=True)))
    page_ms = side.milliseconds("image", BATCH, rounds) / BATCH
    ndcg5 = {
        kind: measure(scores_QN, subject.wanted.relevant_QN).ndcg5 if subject.trained else math.nan
        for kind, scores_QN in found.scores.items()
    }
    return Row(
        measured_at=fidelity.stamp(),
        device=side.device,
        weights=subject.weights,
        engine=side.engine,
        precision=side.precision,
        versions=side.versions,
        page_ms=page_ms,
        pages_per_s=1000 / page_ms,
        query_ms=side.milliseconds("text", 1, rounds),
        **largest,
        late_ndcg5=ndcg5["late"],
        dense_ndcg5=ndcg5["dense"],
        command=subject.command,
    )


def write(rows: list[Row], folder: Path) -> list[Path]:
    """Write one CSV file for each row, named by date, device, engine and precision."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for row in rows:
        device = re.sub(r"[^a-z0-9]+", "-", row.device.lower())
        named = f"{row.weights}-{row.engine}-{row.precision}"
        path = folder / f"{datetime.now(timezone.utc):%Y-%m-%d}-{device}-{named}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(row)))
            writer.writeheader()
            writer.writerow(asdict(row))
        written.append(path)
    return written


def table(rows: list[Row]) -> str:
    """Return the figures as lines for people."""
    head = "engine                   pages/s  ms/query  max error  min cosine  nDCG@5 late   dense"
    return "\n".join([head, *map(_line, rows)])


def _line(row: Row) -> str:
    return (
        f"{row.engine:<19}{row.precision:<6}{row.pages_per_s:>7.1f}{row.query_ms:>10.3f}{row.max_abs_error:>11.1e}"
        f"{row.min_cosine:>12.6f}{row.late_ndcg5:>13.4f}{row.dense_ndcg5:>8.4f}"
    )


def engine_here() -> str:
    """Return the engine that is installed: a builder of plans, or else ONNX Runtime's CUDA provider.

    Raises `ExportError` where there is none of them.
    """
    builders = [name for name, engine in GPU_ENGINES.items() if engine.compiled]
    for name in builders:
        if importlib.util.find_spec(name.replace("-", "_")):
            return name
    for name in GPU_ENGINES.keys() - builders:
        if missing := GPU_ENGINES[name].missing():
            raise ExportError(f"neither {' nor '.join(builders)} is installed, and {missing}. Nothing was checked.")
    return name


def main() -> int:
    """Check this machine; status 1 without a GPU, without an engine, or when an export is refused."""
    parser = argparse.ArgumentParser(
        prog="gpu-check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--engine", choices=list(GPU_ENGINES), help="default: the first installed")
    parser.add_argument("--precision", nargs="+", choices=GPU_ENGINES["tensorrt"].precisions, default=["fp16", "bf16"])
    parser.add_argument("--weights", choices=["demo", *WEIGHTS], default="demo")
    parser.add_argument("--no-published", action="store_true", help="leave out the published code")
    parser.add_argument("--output", type=Path, default=Path("perf/results"), metavar="DIR")
    arguments = parser.parse_args()
    say = progress()
    try:
        if missing := missing_gpu():
            raise ExportError(f"no GPU: {missing}. Nothing was checked.")
        engine = arguments.engine or engine_here()
        with tempfile.TemporaryDirectory() as folder:
            subject = demonstration() if arguments.weights == "demo" else at_width(Path(folder), arguments.weights, say)
            command = shlex.join(["python", "-m", "periscope_perf.gpu.check", *sys.argv[1:]])
            rows = check(
                Path(folder),
                replace(subject, command=command if sys.argv[1:] else subject.command),
                dict.fromkeys(arguments.precision, engine),
                lambda repository, wanted: on_gpu(repository, wanted, engine),
                None if arguments.no_published else lambda: Published(subject.checkpoint, subject.wanted),
                say=say,
            )
    except ExportError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    print("\n".join(map(str, write(rows, arguments.output))))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("gpu-check", main))
