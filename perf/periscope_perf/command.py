"""`periscope bench`: measure a repository with NVIDIA's perf_analyzer."""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
import time
import urllib.request
from pathlib import Path

from periscope_perf import configs, machine, ndcg5, perf_analyzer, plots, results, scenario, served
from periscope_perf.errors import PerfError, ScenarioError
from periscope_perf.measure import Bench, Say, Settings, Target
from periscope_perf.pages import PAGE, SMALL_PAGE
from periscope_perf.results import Row, Setting
from periscope_perf.scenario import Scenario
from periscope_perf.served import Served
from periscope_serve.errors import ServeError
from periscope_serve.server import Server

_PACKAGE = "periscope-retrieval"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `periscope bench`."""
    parser.add_argument("repository", metavar="REPOSITORY", type=Path, help="what `periscope export` wrote")
    parser.add_argument(
        "--scenario",
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(scenario.names())}; repeatable (default: all that the repository serves)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("bench-output"), metavar="DIR", help="where tables and plots go"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small pages, short windows, no nDCG@5: shows that everything works, no figures",
    )
    parser.add_argument("--retriever", metavar="NAME", help="where the repository has more than one")
    parser.add_argument(
        "--keep-requests",
        action="store_true",
        help="keep perf_analyzer's record of every request; it holds the answers too and may take gigabytes",
    )
    parser.add_argument(
        "--write-configs",
        type=Path,
        metavar="DIR",
        help="measure nothing here: write input data, perf_analyzer commands and Model Analyzer files for a deployment",
    )
    parser.add_argument(
        "--url",
        default="localhost:8001",
        metavar="HOST:PORT",
        help="with --write-configs: gRPC of the deployment; HTTP and metrics are on ports 8000 and 8002 "
        "(default: localhost:8001)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, or write configurations; 0 when all of it is done, 1 with the reason on stderr."""
    say = progress()
    try:
        found = served.read(args.repository, args.retriever)
        chosen = choose(args.scenario, found, say)
        if args.write_configs:
            configs.write(args.write_configs, chosen, found, args.url)
            print(f"written: {args.write_configs}")
            return 0
        print(_measure(args, found, chosen, say))
    except BrokenPipeError:
        raise  # `console.main` knows what it means
    except (PerfError, ServeError, OSError) as error:
        print(f"periscope bench: {error}", file=sys.stderr)
        return 1
    return 0


def choose(names: list[str] | None, found: Served, say: Say) -> list[Scenario]:
    """The scenarios of these names, or all that the repository serves. Raises: ScenarioError."""
    if names:
        chosen = [scenario.load(name) for name in dict.fromkeys(names)]
        for one in chosen:
            _require_served(one, found)
        return chosen
    chosen = []
    for name in scenario.names():
        one = scenario.load(name)
        try:
            _require_served(one, found)
        except ScenarioError as error:
            say(f"without {name}: {error}")
        else:
            chosen.append(one)
    return chosen


def progress() -> Say:
    """Return a function that writes lines with the seconds since the start to stderr."""
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", file=sys.stderr, flush=True)

    return say


def _require_served(one: Scenario, found: Served) -> None:
    found.ensemble(one.load)
    if one.background:
        found.ensemble(one.background.load)


def _measure(args: argparse.Namespace, found: Served, chosen: list[Scenario], say: Say) -> str:
    """Measure and write everything; the lines for stdout."""
    output: Path = args.output
    work = output / "run"
    shutil.rmtree(work, ignore_errors=True)  # tables of an earlier run would be taken for this one's
    work.mkdir(parents=True)
    analyzer = perf_analyzer.find()
    settings = Settings("quick" if args.quick else "default", SMALL_PAGE if args.quick else PAGE, args.keep_requests)
    if args.quick:
        quality = None
        say("without ndcg5: --quick")
    else:
        quality = ndcg5.as_served(found.engine, found.precision, work / "demonstration", say)
    start = time.monotonic()
    rows: list[Row] = []
    with Server([args.repository], grpc_port=0, http_port=0, metrics_port=0, log=work / "triton.log") as server:
        started = time.monotonic() - start
        say(f"{server.ready_line()} after {started:.1f} s")
        setting = _setting(found, quality, settings, started, server)
        target = Target(server.grpc_url, server.metrics_url, lambda: machine.memory_of(server.pid))
        bench = Bench(found, target, analyzer, settings, say)
        table = output / f"{setting.stem()}.csv"
        for one in chosen:
            for row in bench.measure(one, work / one.name):
                rows.append(row)
                results.write(table, setting, [row])  # a run that fails later keeps what it has
    pictures = plots.write(output, setting, rows)
    return "\n".join(str(path) for path in (table, *pictures))


def _setting(found: Served, quality: float | None, settings: Settings, started: float, server: Server) -> Setting:
    here = machine.machine()
    versions = machine.versions("onnxruntime", "onnxruntime-gpu", _PACKAGE)
    with urllib.request.urlopen(f"http://{server.http_url}/v2", timeout=10) as answer:
        triton = str(json.loads(answer.read())["version"])
    return Setting(
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        machine=here.name,
        cpu=here.cpu,
        cores=here.cores,
        instructions=" ".join(here.instructions),
        memory_gb=here.memory / 1e9,
        gpu=", ".join(here.gpus),
        triton=triton,
        onnxruntime=versions.get("onnxruntime-gpu", versions.get("onnxruntime", "")),
        python=versions["python"],
        periscope=versions.get(_PACKAGE, ""),
        commit=machine.commit(),
        retriever=found.name,
        recipe=found.recipe,
        fingerprint=found.fingerprint,
        engine=found.engine,
        precision=found.precision,
        cosine=found.quality.cosine,
        rank_agreement=found.quality.rank_agreement,
        ndcg5=quality,
        page="x".join(map(str, settings.page)),
        server_start_s=started,
    )
