"""Running a scenario against a server: perf_analyzer on one side, Triton's counters on the other."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from periscope_perf import inputs, metrics
from periscope_perf.errors import RunError
from periscope_perf.metrics import Counters
from periscope_perf.perf_analyzer import Call, Level, PerfAnalyzer, beside_command
from periscope_perf.results import Row
from periscope_perf.rows import beside_rows, request_row, step_rows
from periscope_perf.scenario import Background, Scenario, Size
from periscope_perf.served import Ensemble, Served

REQUESTS = "requests.json"
BESIDE = "beside.json"

# Seconds until the load beside a measurement must be under way.
_UNDER_WAY = 300.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """A running server: where it listens, and a function that says how many bytes of memory it holds."""

    grpc_url: str
    metrics_url: str
    memory: Callable[[], int]


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    size: which sweep of each scenario.
    page: width and height of the pages.
    keep_requests: a record of every request is kept.
    """

    size: Size
    page: tuple[int, int]
    keep_requests: bool = False


@dataclass(frozen=True)
class Bench:
    """The means of a measurement.

    served: the retriever; target: the server that runs it.
    analyzer: perf_analyzer.
    settings: those of the run.
    say: a function that prints progress.
    """

    served: Served
    target: Target
    analyzer: PerfAnalyzer
    settings: Settings
    say: Say

    def measure(self, scenario: Scenario, folder: Path) -> Iterator[Row]:
        """Measure a scenario level by level; what perf_analyzer reads and writes stays in `folder`.

        Raises: ScenarioError when the repository does not serve it, other `PerfError`s when a level has no figure.
        """
        ensemble = self.served.ensemble(scenario.load)
        sweep = scenario.sweep(self.settings.size)
        folder.mkdir(parents=True, exist_ok=True)
        items = write_inputs(scenario, self.served, self.settings.page, folder)
        highest = 0.0
        for level in concurrencies(scenario, ensemble, self.settings.size):
            rows = self._level(scenario, level, items, folder)
            highest = max(highest, rows[0].throughput or 0.0)
            yield from rows
        for share in sweep.request_rates:
            yield from self._level(scenario, Level("request_rate", share * highest), items, folder)

    def _level(self, scenario: Scenario, level: Level, items: int, folder: Path) -> list[Row]:
        ensemble = self.served.ensemble(scenario.load)
        call = make_call(scenario, ensemble, level, self.settings, self.target)
        with self._beside(scenario.background, folder) as beside:
            before, start = metrics.read(self.target.metrics_url), time.monotonic()
            run = self.analyzer.run(call, folder)
            seconds = time.monotonic() - start
            done = metrics.since(before, metrics.read(self.target.metrics_url))
        (folder / f"{Path(call.table).stem}.log").write_text(run.output, encoding="utf-8")
        require_answers(done, [ensemble, *([beside] if beside else [])])
        request = replace(
            request_row(call, run, folder, scenario.name, items), server_memory_bytes=self.target.memory()
        )
        background = scenario.background
        if beside and background:
            request = replace(request, beside=f"{beside.name} x{background.concurrency}")
        self.say(summary(request))
        rows = [request, *step_rows(request, call, folder, ensemble, done)]
        if beside and background:
            command = beside_command(beside.name, BESIDE, background.concurrency, self.target.grpc_url)
            rows += beside_rows(request, beside, done, seconds, shlex.join(command))
        return rows

    @contextlib.contextmanager
    def _beside(self, background: Background | None, folder: Path) -> Iterator[Ensemble | None]:
        """Keep the load beside the measurement going, from when its first requests are answered."""
        if background is None:
            yield None
            return
        ensemble = self.served.ensemble(background.load)
        url = self.target.metrics_url
        wanted = metrics.read(url)[ensemble.name].requests + background.concurrency
        end = time.monotonic() + _UNDER_WAY
        with self.analyzer.beside(ensemble.name, BESIDE, background.concurrency, self.target.grpc_url, folder) as load:
            while metrics.read(url)[ensemble.name].requests < wanted:
                load.check()
                if time.monotonic() > end:
                    raise RunError(f"{ensemble.name}: did not answer in {_UNDER_WAY:.0f} seconds. See Triton's log")
                time.sleep(0.2)
            yield ensemble


def concurrencies(scenario: Scenario, ensemble: Ensemble, size: Size) -> list[Level]:
    """The levels of a sweep in requests in flight: of a reranker those that its lists of candidates take."""
    each = inputs.requests_per_item(scenario.load, ensemble)
    return [Level("concurrency", count * each) for count in scenario.sweep(size).concurrency]


def write_inputs(scenario: Scenario, served: Served, page: tuple[int, int], folder: Path) -> int:
    """Write what a scenario sends; the number of queries, pages or candidates of one request.

    Raises: ScenarioError.
    """
    sent = inputs.requests(scenario.load, served.ensemble(scenario.load), page)
    inputs.write(folder / REQUESTS, sent)
    if scenario.background:
        load = scenario.background.load
        inputs.write(folder / BESIDE, inputs.requests(load, served.ensemble(load), page))
    return len(sent[0].get("IMAGE") or sent[0]["TEXT"])


def make_call(scenario: Scenario, ensemble: Ensemble, level: Level, settings: Settings, target: Target) -> Call:
    """The call of perf_analyzer for a level."""
    stem = f"{level.kind}-{level.value:.6g}"
    sweep = scenario.sweep(settings.size)
    return Call(
        model=ensemble.name,
        data=REQUESTS,
        table=f"{stem}.csv",
        level=level,
        window=sweep.window,
        percentile=scenario.percentile,
        stability=sweep.stability,
        trials=scenario.trials,
        grpc_url=target.grpc_url,
        metrics_url=f"{target.metrics_url}/metrics",
        requests_file=f"{stem}-requests.json" if settings.keep_requests else "",
    )


def require_answers(done: Mapping[str, Counters], ensembles: list[Ensemble]) -> None:
    """Raise RunError when requests failed: fast refusals would make a fine figure."""
    for ensemble in ensembles:
        if done[ensemble.name].failures:
            raise RunError(
                f"{ensemble.name}: {done[ensemble.name].failures:.0f} requests failed while it was measured, so there "
                "is no figure. See Triton's log"
            )


def summary(row: Row) -> str:
    """A measurement in a line."""
    rate = f"{row.items_per_s:.4g} a second" if row.items_per_s is not None else "no figure"
    known = {f"p{percent}": getattr(row, f"p{percent}_us") for percent in (50, 95)}
    latency = "".join(f", {name} {value / 1000:.4g} ms" for name, value in known.items() if value is not None)
    unstable = "" if row.stable else f", not stable (windows differ {row.spread or 0:.2f} times)"
    return f"{row.scenario}, {row.load.replace('_', ' ')} {row.level:.4g}: {rate}{latency}{unstable}"
