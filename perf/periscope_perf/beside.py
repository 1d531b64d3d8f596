"""`make bench`: Periscope beside what people would use otherwise, and whether the targets are reached.

Writes the checkpoints (once) and exports them, measures everyone in turns on the same pages and queries, writes CSV and
JSON, and ends with a line a target: name, value, target, pass or fail. The targets are those of the machine's class of
processors. Whoever is missing and whatever is lost is named. The status is 1 when a target is not reached.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from periscope_client.console import guarded
from periscope_perf import bars, record
from periscope_perf.candidates import best_of, demonstration, exports
from periscope_perf.checkpoints import Checkpoints, Depth, colqwen2, qwen3_vl_embedding
from periscope_perf.comparison import Comparison
from periscope_perf.contenders import Conditions, Contenders
from periscope_perf.findings import Findings, precision_of, with_best
from periscope_perf.flops import page_flops
from periscope_perf.interleaved import Say, SideError
from periscope_perf.machine import machine
from periscope_perf.pages import SMALL_PAGE, page_files, queries, write_pages
from periscope_perf.preparation import measure_preparation
from periscope_perf.targets import PLAN, Candidate, Plan, SystemPlan, judge, load_plan

CHECKPOINTS = Path(".perf") / "checkpoints"
SYSTEMS: dict[str, Callable[[Path, Depth], Checkpoints]] = {
    "colqwen2": colqwen2,
    "qwen3_vl_embedding": qwen3_vl_embedding,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, report."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    plan = load_plan(options.plan)
    processor = plan.processor(machine().instructions)
    plan = _chosen(plan, processor, options)
    findings = Findings()
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="periscope-bench-", dir=options.scratch) as scratch:
        conditions = Conditions(
            threads=len(os.sched_getaffinity(0)),
            rounds=plan.rounds,
            reference=plan.reference,
            scratch=Path(scratch),
            alone=options.full_depth,
            python=options.peer_python,
        )
        say(f"processor: {processor}: {plan.processors[processor].says}")
        good = demonstration(plan, conditions, findings, say)
        for system in plan.systems:
            _system(system, plan, good, conditions, findings, options, say)
    named = with_best(findings.figures, findings.best)
    verdicts = [judge(target, named) for target in plan.targets_on(processor)]
    command = shlex.join(["python", "-m", "periscope_perf.beside", *arguments])
    written = record.write(
        options.output, findings, verdicts, command, processor=processor, full_depth=options.full_depth
    )
    for path in (*written, *bars.write(written[0].with_suffix(".png"), findings)):
        print(path)
    for name, reason in findings.failures.items():
        print(f"failed: {name}: {reason.splitlines()[0]}")
    print(f"processor: {processor}: {plan.processors[processor].says}")
    for verdict in verdicts:
        if not verdict.passed:
            print(verdict.loss())
    print("\n".join(verdict.line() for verdict in verdicts))
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _system(
    system: str,
    plan: Plan,
    good: Sequence[Candidate],
    conditions: Conditions,
    findings: Findings,
    options: argparse.Namespace,
    say: Say,
) -> None:
    """One system; the first of them decides which candidate is best, and prepares images."""
    say(f"{system}: checkpoints")
    checkpoints = SYSTEMS[system](options.checkpoints / _depth(options), _depth(options))
    published, wanted = checkpoints.folder("published"), plan.systems[system]
    files = write_pages(conditions.scratch / f"{system}-pages", page_files(wanted.pages, wanted.page))
    place = conditions.scratch / system
    exported = exports(published, checkpoints.recipe, plan, place, say, one_at_a_time=conditions.alone)
    contenders = Contenders(checkpoints, wanted, exported, conditions, findings, say)
    operations = page_flops(published, checkpoints.recipe, files[0].read_bytes())
    texts = queries(wanted.queries)
    comparison = Comparison(system, contenders, files, texts, operations, conditions, findings, say)

    def best() -> str:
        findings.best = findings.best or best_of(good, system, findings)
        return findings.best

    try:
        comparison.run(best)
        # No depth of a model changes how long an image takes.
        if "prepare/1/periscope" not in findings.figures and not conditions.alone:
            repository = next(iter(exported.values()))()
            measure_preparation(repository, checkpoints.folder("transformers"), files, conditions, findings, say)
    except SideError as error:  # one that nobody expected must not cost the other system's figures
        findings.failures[system] = str(error)
    shutil.rmtree(place, ignore_errors=True)


def _depth(options: argparse.Namespace) -> Depth:
    return "small" if options.quick else "full" if options.full_depth else "wide"


def _chosen(plan: Plan, processor: str, options: argparse.Namespace) -> Plan:
    """Return the plan with what the command line says; what it leaves open is in the processor's precisions."""

    def stays(name: str, named: Collection[str] | None) -> bool:
        return precision_of(name) in plan.processors[processor].precisions if named is None else name in named

    systems: dict[str, SystemPlan] = {}
    for name, system in plan.systems.items():
        if options.systems and name not in options.systems:
            continue
        peers = tuple(peer for peer in system.peers if stays(peer, options.peers))
        system = system.model_copy(update={"peers": peers})
        if options.full_depth:
            system = system.model_copy(update={"pages": 1, "queries": 3})
        if options.quick:
            system = system.model_copy(update={"page": SMALL_PAGE, "pages": 2, "queries": 2})
        systems[name] = system
    candidates = tuple(one for one in plan.candidates if stays(one.name, options.candidates))
    rounds = options.rounds or (1 if options.full_depth else plan.rounds)
    plan = plan.model_copy(update={"systems": systems, "candidates": candidates, "rounds": rounds})
    if options.quick:
        small = plan.quality.model_copy(update={"pages": 12, "queries": 8})
        plan = plan.model_copy(update={"quality": small, "rounds": 1})
    return plan


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m periscope_perf.beside", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny checkpoints, one round: shows that it works")
    parser.add_argument("--plan", type=Path, default=PLAN, metavar="FILE", help="default: targets.yaml of the package")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: as the plan says")
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), help="default: all of the plan")
    parser.add_argument(
        "--full-depth",
        action="store_true",
        help="checkpoints as deep as published: everyone alone in memory, one page, one round. 30 GB of disk",
    )
    parser.add_argument(
        "--candidates", nargs="+", metavar="NAME", help="only these engines and precisions of the plan: fp32, ..."
    )
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="only these; targets that need others fail")
    parser.add_argument(
        "--peer-python", type=Path, metavar="FILE", help="one interpreter for all peers, not .perf/venvs/PEER"
    )
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, metavar="DIR", help="written where missing")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="default: where temporary files go")
    parser.add_argument("--output", type=Path, default=Path("perf") / "results", metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(guarded("bench", main))
