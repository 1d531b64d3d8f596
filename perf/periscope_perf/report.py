"""Reading what perf_analyzer wrote: its table, those of the composing models, and the windows that it printed.

Times are in microseconds, as in the tables. Whatever is not as version 2.50 writes it is an error: a column that moved
must not become a figure.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from periscope_perf.errors import ReportError

_LEVELS = {"concurrency": "Concurrency", "request_rate": "Request Rate"}

_TIMES = [
    "Inferences/Second",
    "Client Send",
    "Network+Server Send/Recv",
    "Server Queue",
    "Server Compute Input",
    "Server Compute Infer",
    "Server Compute Output",
    "Client Recv",
]
_LATENCIES = ["p50 latency", "p90 latency", "p95 latency", "p99 latency"]
_CLIENT = ["request/response", "response wait"]
_GPU = ["Avg GPU Utilization", "Avg GPU Power Usage", "Max GPU Memory Usage", "Total GPU Memory"]

_PASS = re.compile(
    r"^\s*Pass \[\d+\] throughput: ([0-9.e+-]+) infer/sec\. (?:Avg|p\d+) latency: (\d+) usec", re.MULTILINE
)
_COUNT = re.compile(r"^  Client: *\n    Request count: (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Spent:
    """The parts of a request's time, on average, in one model. An ensemble's own table lacks its steps' queues."""

    throughput: float
    queue: float
    input: float
    infer: float
    output: float


@dataclass(frozen=True)
class Latency:
    """The latency that the client saw."""

    p50: float
    p90: float
    p95: float
    p99: float
    gpu_utilisation: float | None
    gpu_memory: float | None


def read(path: Path, kind: str) -> tuple[Spent, Latency]:
    """Read the table of one level. `kind`: "concurrency" or "request_rate". Raises: ReportError."""
    row = _row(path, [_LEVELS[kind], *_TIMES, *_LATENCIES, *_CLIENT, *_GPU])
    number = _Numbers(path, row)
    latency = Latency(
        p50=number("p50 latency"),
        p90=number("p90 latency"),
        p95=number("p95 latency"),
        p99=number("p99 latency"),
        gpu_utilisation=number.by_gpu("Avg GPU Utilization"),
        gpu_memory=number.by_gpu("Max GPU Memory Usage"),
    )
    return _spent(number), latency


def read_steps(path: Path, kind: str, steps: Sequence[str]) -> dict[str, Spent]:
    """Read the tables of the composing models beside the table `path`. Raises: ReportError."""
    found = {}
    for step in steps:
        tables = sorted(path.parent.glob(f"{step}_v*.{path.name}"))
        if len(tables) != 1:
            raise ReportError(
                f"{path.name}: perf_analyzer wrote {len(tables)} tables of the step {step!r}, not one. "
                "Serve one version of each model, and run in an empty folder"
            )
        found[step] = _spent(_Numbers(tables[0], _row(tables[0], [_LEVELS[kind], *_TIMES])))
    return found


def read_passes(output: str) -> list[tuple[float, float]]:
    """Throughput and latency of each window that perf_analyzer printed. Raises: ReportError when there is none."""
    passes = [(float(throughput), float(latency)) for throughput, latency in _PASS.findall(output)]
    if not passes:
        raise ReportError(
            "perf_analyzer printed no window. Is it the one of tritonclient 2.50.0? Install it: make perf"
        )
    return passes


def read_count(output: str) -> int:
    """The number of requests of the measurement. Raises: ReportError."""
    counts = _COUNT.findall(output)
    if len(counts) != 1:
        raise ReportError(f"perf_analyzer printed {len(counts)} counts of requests, not one. Measure one level a call")
    return int(counts[0])


class _Numbers:
    """The numbers of a row, by column."""

    def __init__(self, path: Path, row: dict[str, str]) -> None:
        self._path = path
        self._row = row

    def __call__(self, column: str) -> float:
        try:
            return float(self._row[column])
        except ValueError:
            raise ReportError(f"{self._path.name}: column {column!r} is {self._row[column]!r}, no number") from None

    def by_gpu(self, column: str) -> float | None:
        """The mean over GPUs of `<id>:<number>;<id>:<number>;`, None where there is no GPU."""
        entries = [entry for entry in self._row[column].split(";") if entry.strip()]
        try:
            values = [float(entry.rpartition(":")[2]) for entry in entries]
        except ValueError:
            raise ReportError(f"{self._path.name}: column {column!r} is {self._row[column]!r}, not by GPU") from None
        return sum(values) / len(values) if values else None


def _spent(number: _Numbers) -> Spent:
    return Spent(
        throughput=number("Inferences/Second"),
        queue=number("Server Queue"),
        input=number("Server Compute Input"),
        infer=number("Server Compute Infer"),
        output=number("Server Compute Output"),
    )


def _row(path: Path, columns: list[str]) -> dict[str, str]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except FileNotFoundError:
        raise ReportError(f"{path.name}: perf_analyzer did not write it. See what it printed") from None
    if not lines or lines[0] != columns:
        found = ",".join(lines[0]) if lines else "nothing"
        raise ReportError(f"{path.name}: its columns are {found}, and should be {','.join(columns)}")
    if len(lines) != 2 or len(lines[1]) != len(columns):
        raise ReportError(f"{path.name}: holds {len(lines) - 1} rows, or an incomplete one, instead of one level")
    return dict(zip(columns, lines[1], strict=True))
