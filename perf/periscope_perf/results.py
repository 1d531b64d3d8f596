"""A measurement as rows of a table: one for the whole request, one for each step, and one for a load beside it."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from periscope_perf.errors import ReportError

Part = Literal["request", "step", "beside"]


@dataclass(frozen=True)
class Setting:
    """Columns that all rows of a run share."""

    date: str
    machine: str
    cpu: str
    cores: int
    instructions: str
    memory_gb: float
    gpu: str
    triton: str
    onnxruntime: str
    python: str
    periscope: str
    commit: str
    retriever: str
    recipe: str
    fingerprint: str
    engine: str
    precision: str
    cosine: float | None
    rank_agreement: float | None
    ndcg5: float | None
    page: str
    server_start_s: float

    def stem(self) -> str:
        """The name of the run's files: `<date>-<machine>-<engine>-<precision>`."""
        return f"{self.date[:10]}-{self.machine}-{self.engine}-{self.precision}"


@dataclass(frozen=True)
class Row:
    """One line. What a column means: docs/performance.md."""

    scenario: str
    part: Part
    model: str
    load: str
    level: float
    beside: str
    items: int
    stable: bool
    spread: float | None = None
    requests: int | None = None
    throughput: float | None = None
    items_per_s: float | None = None
    p50_us: float | None = None
    p90_us: float | None = None
    p95_us: float | None = None
    p99_us: float | None = None
    queue_us: float | None = None
    input_us: float | None = None
    infer_us: float | None = None
    output_us: float | None = None
    executions: int | None = None
    batch: float | None = None
    gpu_utilisation: float | None = None
    gpu_memory_bytes: float | None = None
    server_memory_bytes: int | None = None
    command: str = ""


COLUMNS = [field.name for kind in (Row, Setting) for field in dataclasses.fields(kind)]
"""The columns of a results file, in order."""


def write(path: Path, setting: Setting, rows: Sequence[Row]) -> None:
    """Write rows, below those of earlier runs of the day where the file exists.

    Raises: ReportError when the file has other columns.
    """
    new = not path.exists()
    if not new:
        with path.open(newline="", encoding="utf-8") as file:
            found = next(csv.reader(file), [])
        if found != COLUMNS:
            raise ReportError(f"{path}: has other columns than this version writes. Move it away, and measure again")
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        for row in rows:
            values = {**dataclasses.asdict(row), **dataclasses.asdict(setting)}
            writer.writerow({name: _text(value) for name, value in values.items()})


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
