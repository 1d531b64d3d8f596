"""What TensorRT makes of the demonstration's retriever on the GPU of this machine: how close, how good, how fast.

    make gpu-check

exports it for ONNX Runtime (fp32, on the CPU: what everything is compared with) and for TensorRT in fp16 and bf16, runs
both on the same pages and queries, and writes a CSV file for each engine and precision. Without a GPU it says so.
Q queries, N pages, T tokens.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from periscope_demo.checkpoint import SHIPPED_RECIPE, shipped_checkpoint
from periscope_demo.evaluation import EvaluationSet, make_evaluation, measure
from periscope_export import fidelity
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, Say, export, progress
from periscope_export.precision import Precision
from periscope_export.tensorrt_run import device_runner, missing_gpu, plan_runner
from periscope_runtime.collate import collate, no_visual_tokens
from periscope_runtime.prepare import Preparer

NAME = "demo"
BATCH = 4

# Runs one step on the tensors that the step before gave, wherever those are.
Steps = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Row:
    """One line of the results: what ran where, its quality beside its speed."""

    measured_at: str
    device: str
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
class Vectors:
    """Late and dense vectors of all queries and pages, and the scores that rank them."""

    late: list[Any]
    dense: list[Any]
    scores: dict[str, Any]


class Served:
    """An exported repository and two ways to run its steps: on arrays, to compare; and as fast as it goes, to time."""

    def __init__(self, repository: Path, run: fidelity.Run, timed: Steps, device: str) -> None:
        self.report = fidelity.read_fidelity(repository)
        self.preparer = Preparer(repository / f"{NAME}_preprocess_text" / "1")
        self.device = device
        self.width = fidelity.read_golden(repository / fidelity.GOLDEN_FILE)["text"]["visual_tokens"].shape[-1]
        self._run, self._timed = run, timed

    def prepared(self, wanted: EvaluationSet) -> dict[str, dict[str, Any]]:
        """Return the tensors of all texts and all pages, each padded to one length."""
        buckets = self.preparer.preparation.buckets
        texts = collate([self.preparer.text(query.text.encode()) for query in wanted.queries], buckets)
        pages = collate([self.preparer.image(page.file()) for page in wanted.pages], buckets)
        return {
            "text": {**texts, "visual_tokens": no_visual_tokens(len(wanted.queries), self.width)},
            "image": dict(pages),
        }

    def vectors(self, tensors: Mapping[str, Mapping[str, Any]]) -> Vectors:
        """Embed everything, in batches, and rank."""
        found = {path: self._embedded(path, rows) for path, rows in tensors.items()}
        golden: fidelity.Golden = {path: dict(rows) for path, rows in found.items()}
        late_QN = fidelity.run_step("maxsim", "search", golden, self._run)["score"]
        dense_QN = found["text"]["dense"] @ found["image"]["dense"].T
        return Vectors(
            [found[path]["late"][found[path]["late_mask"] > 0] for path in ("text", "image")],
            [found[path]["dense"] for path in ("text", "image")],
            {"late": late_QN, "dense": dense_QN},
        )

    def milliseconds(self, path: str, tensors: Mapping[str, Any], rows: int, rounds: int) -> float:
        """Return the median time of one run of `rows` rows from prepared tensors to vectors."""
        batch = {name: self._placed(array[:rows]) for name, array in tensors.items()}
        times = []
        for _ in range(rounds + 2):
            start = time.perf_counter()
            self._through(path, batch, self._timed)
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times[2:])  # the first runs warm up

    def _embedded(self, path: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
        count = len(tensors["input_ids"])
        batches = [
            self._through(path, {name: array[first : first + BATCH] for name, array in tensors.items()}, self._run)
            for first in range(0, count, BATCH)
        ]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in ("late", "late_mask", "dense")}

    def _through(self, path: str, tensors: Mapping[str, Any], run: Steps) -> dict[str, Any]:
        tensors = dict(tensors)
        for step, paths in self.report["order"].items():
            if path in paths:
                tensors.update(run(step, tensors))
        return tensors

    def _placed(self, array: Any) -> Any:
        return array if self.device == "cpu" else torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def on_cpu(repository: Path) -> Served:
    """Serve the graphs of a repository in ONNX Runtime."""
    run = fidelity.graph_runner(repository, NAME, keep=True)
    return Served(repository, run, run, "cpu")


def on_gpu(repository: Path) -> Served:
    """Serve the plans of a repository."""
    return Served(repository, plan_runner(repository, NAME), device_runner(repository, NAME), "cuda")


def check(
    folder: Path,
    engine: str,
    precisions: list[Precision],
    compiled: Callable[[Path], Served],
    size: tuple[int, int] = (60, 40),
    rounds: int = 30,
    say: Say = print,
) -> list[Row]:
    """Export, compare and time; `compiled` runs the repositories of `engine`. The first row is ONNX Runtime's.

    Raises `ExportError` for everything that an export refuses.
    """
    wanted = make_evaluation(*size)

    def exported(engine: str, precision: Precision) -> Path:
        output = folder / f"{engine}-{precision}"
        request = Request(
            str(shipped_checkpoint()), SHIPPED_RECIPE, output, name=NAME, precision=precision, engine=engine
        )
        return export(request, say)

    reference = on_cpu(exported("onnxruntime", "fp32"))
    tensors = reference.prepared(wanted)
    truth = reference.vectors(tensors)
    rows = [_row(reference, tensors, truth, truth, wanted, rounds)]
    for precision in precisions:
        served = compiled(exported(engine, precision))
        say(f"{engine} {precision}: comparing and timing")
        rows.append(_row(served, tensors, served.vectors(tensors), truth, wanted, rounds))
    return rows


def _row(
    served: Served,
    tensors: Mapping[str, Mapping[str, Any]],
    found: Vectors,
    truth: Vectors,
    wanted: EvaluationSet,
    rounds: int,
) -> Row:
    pairs = list(zip([*found.late, *found.dense], [*truth.late, *truth.dense], strict=True))
    distance = fidelity.distance(pairs)
    page_ms = served.milliseconds("image", tensors["image"], BATCH, rounds) / BATCH
    versions = served.report["versions"]
    return Row(
        measured_at=fidelity.stamp(),
        device=torch.cuda.get_device_name() if served.device == "cuda" else versions["machine"],
        engine=served.report["engine"],
        precision=served.report["precision"],
        versions=" ".join(f"{name} {versions[name]}" for name in sorted(versions) if name not in ("python", "machine")),
        page_ms=page_ms,
        pages_per_s=1000 / page_ms,
        query_ms=served.milliseconds("text", tensors["text"], 1, rounds),
        **distance,
        late_ndcg5=measure(found.scores["late"], wanted.relevant_QN).ndcg5,
        dense_ndcg5=measure(found.scores["dense"], wanted.relevant_QN).ndcg5,
        command="make gpu-check",
    )


def write(rows: list[Row], folder: Path) -> list[Path]:
    """Write one CSV file for each row, named by date, device, engine and precision."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for row in rows:
        device = re.sub(r"[^a-z0-9]+", "-", row.device.lower())
        path = folder / f"{datetime.now(timezone.utc):%Y-%m-%d}-{device}-{row.engine}-{row.precision}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(row)))
            writer.writeheader()
            writer.writerow(asdict(row))
        written.append(path)
    return written


def table(rows: list[Row]) -> str:
    """Return the figures as lines for people."""
    lines = ["engine              pages/s  ms/query  max error  min cosine  nDCG@5 late   dense"]
    lines += [
        f"{row.engine:<14}{row.precision:<6}{row.pages_per_s:>9.1f}{row.query_ms:>10.3f}{row.max_abs_error:>11.1e}"
        f"{row.min_cosine:>12.6f}{row.late_ndcg5:>13.4f}{row.dense_ndcg5:>8.4f}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Check this machine; status 1 without a GPU, without a builder, or when an export is refused."""
    parser = argparse.ArgumentParser(
        prog="gpu-check", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--engine", choices=["tensorrt", "tensorrt-rtx"], help="default: tensorrt where it is installed"
    )
    parser.add_argument("--output", type=Path, default=Path("perf/results"), metavar="DIR")
    arguments = parser.parse_args()
    if missing := missing_gpu():
        print(f"gpu-check: no GPU: {missing}. Nothing was checked.", file=sys.stderr)
        return 1
    engine = arguments.engine or ("tensorrt" if importlib.util.find_spec("tensorrt") else "tensorrt-rtx")
    say = progress()
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = check(Path(folder), engine, ["fp16", "bf16"], on_gpu, say=say)
    except ExportError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 1
    print(table(rows))
    print("\n".join(map(str, write(rows, arguments.output))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
