"""Rows of a measurement from what perf_analyzer reported and what Triton counted.

Latencies and throughput are the client's; where no three windows agreed, the medians of the last three. The times of
the steps are those of perf_analyzer's windows; of a load beside them, and where no three windows agreed, they are what
Triton counted from start to end. Batches are always counted.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from periscope_perf import report
from periscope_perf.metrics import Counters
from periscope_perf.perf_analyzer import Call, Run
from periscope_perf.results import Part, Row
from periscope_perf.served import Ensemble

_WINDOWS = 3


def request_row(call: Call, run: Run, folder: Path, scenario: str, items: int) -> Row:
    """The row of the client's view. `items`: pages, queries or candidates of one request. Raises: ReportError."""
    passes = report.read_passes(run.output)[-_WINDOWS:]
    rates = [throughput for throughput, _ in passes]
    row = Row(
        scenario=scenario,
        part="request",
        model=call.model,
        load=call.level.kind,
        level=call.level.value,
        beside="",
        items=items,
        stable=run.stable,
        spread=max(rates) / min(rates) if min(rates) else None,
        command=call.text(),
    )
    if not run.stable:
        middle = statistics.median(latency for _, latency in passes)
        p50, p90, p95, p99 = (middle if percentile == call.percentile else None for percentile in (50, 90, 95, 99))
        return replace(_rate(row, statistics.median(rates)), p50_us=p50, p90_us=p90, p95_us=p95, p99_us=p99)
    spent, latency = report.read(folder / call.table, call.level.kind)
    return replace(
        _rate(row, spent.throughput),
        requests=report.read_count(run.output),
        p50_us=latency.p50,
        p90_us=latency.p90,
        p95_us=latency.p95,
        p99_us=latency.p99,
        gpu_utilisation=latency.gpu_utilisation,
        gpu_memory_bytes=latency.gpu_memory,
    )


def step_rows(request: Row, call: Call, folder: Path, ensemble: Ensemble, done: Mapping[str, Counters]) -> list[Row]:
    """The parts of the request's time, step by step. Raises: ReportError."""
    rows = [_counted(request, "step", step, done[step]) for step in ensemble.steps]
    if not request.stable:
        return rows
    spent = report.read_steps(folder / call.table, call.level.kind, ensemble.steps)
    return [
        replace(
            row,
            queue_us=spent[row.model].queue,
            input_us=spent[row.model].input,
            infer_us=spent[row.model].infer,
            output_us=spent[row.model].output,
        )
        for row in rows
    ]


def beside_rows(
    request: Row, beside: Ensemble, done: Mapping[str, Counters], seconds: float, command: str
) -> list[Row]:
    """The work of the load beside the measurement in these seconds. Steps that both use count the work of both."""
    rows = [_counted(request, "beside", model, done[model]) for model in (beside.name, *beside.steps)]
    rows[0] = _rate(rows[0], done[beside.name].requests / seconds)
    return [replace(row, command=command) for row in rows]


def _counted(request: Row, part: Part, model: str, counters: Counters) -> Row:
    return Row(
        scenario=request.scenario,
        part=part,
        model=model,
        load=request.load,
        level=request.level,
        beside=request.beside,
        items=request.items if part == "step" else 1,
        stable=request.stable,
        queue_us=counters.mean("queue_us"),
        input_us=counters.mean("input_us"),
        infer_us=counters.mean("infer_us"),
        output_us=counters.mean("output_us"),
        executions=int(counters.executions),
        batch=counters.batch,
        command=request.command,
    )


def _rate(row: Row, throughput: float) -> Row:
    return replace(row, throughput=throughput, items_per_s=throughput * row.items)
