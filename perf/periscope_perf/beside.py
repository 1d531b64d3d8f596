"""`make bench`: Periscope beside what people would use otherwise, and whether the targets are reached.

Writes the checkpoints (once) and exports them, measures everyone in turns on the same pages and queries, writes CSV and
JSON, and ends with a line a target: name, value, target, pass or fail. Whoever is missing is named. The status is 1
when a target is not reached.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from periscope_demo.checkpoint import SHIPPED_RECIPE, shipped_checkpoint
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_perf import record
from periscope_perf.checkpoints import Checkpoints, colqwen2, qwen3_vl_embedding
from periscope_perf.comparison import Conditions, Findings, compare
from periscope_perf.interleaved import Say, SideError, interleave
from periscope_perf.pages import SMALL_PAGE, page_files, queries, write_pages
from periscope_perf.quality import demo_ndcg5
from periscope_perf.server_side import seconds_to_ready
from periscope_perf.targets import PLAN, Candidate, Plan, judge, load_plan

CHECKPOINTS = Path(".perf") / "checkpoints"
SYSTEMS: dict[str, Callable[[Path, bool], Checkpoints]] = {
    "colqwen2": colqwen2,
    "qwen3_vl_embedding": qwen3_vl_embedding,
}
FP32 = Candidate(engine="onnxruntime", precision="fp32")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, report."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    plan = _chosen(load_plan(options.plan), options)
    findings = Findings()
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="periscope-bench-") as scratch:
        conditions = Conditions(
            threads=len(os.sched_getaffinity(0)),
            rounds=plan.rounds,
            reference=plan.reference,
            scratch=Path(scratch),
            python=options.peer_python,
        )
        good = _demonstration(plan, conditions, findings, say)
        for system in plan.systems:
            _system(system, plan, conditions, findings, options, say)
    findings.best = _best(plan, good, findings)
    named = with_best(findings.figures, findings.best)
    verdicts = [judge(target, named) for target in plan.targets]
    command = shlex.join(["python", "-m", "periscope_perf.beside", *arguments])
    for path in record.write(options.output, findings, verdicts, command):
        print(path)
    for name, reason in findings.failures.items():
        print(f"failed: {name}: {reason.splitlines()[0]}")
    for verdict in verdicts:
        if verdict.missing:
            print(f"missing: {verdict.target.name} needs {verdict.missing}")
    print("\n".join(verdict.line() for verdict in verdicts))
    return 0 if all(verdict.passed for verdict in verdicts) else 1


def _demonstration(plan: Plan, conditions: Conditions, findings: Findings, say: Say) -> list[Candidate]:
    """Export the trained retriever for every candidate; return those that rank nearly as well as fp32 does."""
    exported: dict[Candidate, Path] = {}
    for candidate in plan.candidates:
        say(f"demonstration, {candidate.name}: exporting, and ranking {plan.quality.pages} pages")
        try:
            repository = _export(shipped_checkpoint(), SHIPPED_RECIPE, candidate, conditions.scratch / "demo", say)
        except ExportError as error:
            findings.failures[f"demo/{candidate.name}"] = str(error)
            continue
        exported[candidate] = repository
        findings.ndcg5[candidate.name] = demo_ndcg5(
            repository, SHIPPED_RECIPE, plan.quality.pages, plan.quality.queries, conditions.scratch / "demo.log"
        )
    if FP32 in exported:
        log = conditions.scratch / "start.log"
        starts = interleave(
            {"start/demo": lambda: seconds_to_ready(exported[FP32], SHIPPED_RECIPE, log)}, conditions.rounds, say
        )
        findings.figures |= starts.figures
        findings.failures |= starts.failures
    floor = findings.ndcg5.get(FP32.name, 0.0) - plan.quality.within
    return [candidate for candidate in exported if findings.ndcg5[candidate.name] >= floor]


def _system(
    system: str, plan: Plan, conditions: Conditions, findings: Findings, options: argparse.Namespace, say: Say
) -> None:
    say(f"{system}: checkpoints")
    size = "small" if options.quick else "wide"
    checkpoints = SYSTEMS[system](options.checkpoints / size, options.quick)
    repositories: dict[Candidate, Path] = {}
    for candidate in plan.candidates:
        say(f"{system}, {candidate.name}: exporting")
        try:
            repositories[candidate] = _export(
                checkpoints.folders["published"], checkpoints.recipe, candidate, conditions.scratch / system, say
            )
        except ExportError as error:
            findings.failures[f"{system}/served-{candidate.name}"] = str(error)
    wanted = plan.systems[system]
    files = write_pages(conditions.scratch / f"{system}-pages", page_files(wanted.pages, wanted.page))
    try:
        compare(checkpoints, wanted, repositories, files, queries(wanted.queries), conditions, findings, say)
    except SideError as error:  # one that nobody expected must not cost the other system's figures
        findings.failures[system] = str(error)


def _export(checkpoint: Path, recipe: str, candidate: Candidate, folder: Path, say: Say) -> Path:
    def quietly(line: str) -> None:
        if line.startswith("fidelity:"):
            say(f"  {line}")

    request = Request(
        str(checkpoint.resolve()),
        recipe,
        folder / candidate.name,
        precision=candidate.precision,  # type: ignore[arg-type]  # whatever the plan says: the exporter refuses others
        engine=candidate.engine,
    )
    return export(request, quietly)


def _best(plan: Plan, good: Sequence[Candidate], findings: Findings) -> str:
    """The candidate that embeds most pages a second, of those that rank well."""
    first = next(iter(plan.systems))
    rates = {
        candidate.name: sum(rates) / len(rates)
        for candidate in good
        if (rates := findings.figures.get(f"pages/{first}/served-{candidate.name}"))
    }
    return max(rates, key=rates.__getitem__, default="")


def with_best(figures: Mapping[str, list[float]], best: str) -> dict[str, list[float]]:
    """Return the figures, and those of the best candidate once more under the name "best"."""
    named = dict(figures)
    if best:
        for name, values in figures.items():
            if name.endswith((f"/served-{best}", f"/bare-{best}")):
                named[name.removesuffix(best) + "best"] = values
        if (peak := f"peak/{best.rpartition('-')[2]}") in figures:
            named["peak/best"] = figures[peak]
    return named


def _chosen(plan: Plan, options: argparse.Namespace) -> Plan:
    """Return the plan with what the command line says."""
    systems = {}
    for name, system in plan.systems.items():
        if options.systems and name not in options.systems:
            continue
        peers = tuple(peer for peer in system.peers if options.peers is None or peer in options.peers)
        system = system.model_copy(update={"peers": peers})
        if options.quick:
            system = system.model_copy(update={"page": SMALL_PAGE, "pages": 2, "queries": 2})
        systems[name] = system
    plan = plan.model_copy(update={"systems": systems, "rounds": options.rounds or plan.rounds})
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
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="only these; targets that need others fail")
    parser.add_argument(
        "--peer-python", type=Path, metavar="FILE", help="one interpreter for all peers, not .perf/venvs/PEER"
    )
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, metavar="DIR", help="written where missing")
    parser.add_argument("--output", type=Path, default=Path("perf") / "results", metavar="DIR")
    return parser


if __name__ == "__main__":
    sys.exit(main())
