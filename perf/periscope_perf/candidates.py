"""The candidates to be the best engine and precision here: exports, and the demonstration's retriever of each.

A candidate counts when it ranks nearly as well as fp32 does; of those, the one that embeds most pages a second is best.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from periscope_client import PeriscopeError
from periscope_demo.shipped import SHIPPED_RECIPE, shipped_checkpoint
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_perf.contenders import Conditions
from periscope_perf.findings import Findings
from periscope_perf.interleaved import Say, Side, SideError, interleave
from periscope_perf.quality import demo_ndcg5
from periscope_perf.server_side import seconds_to_ready
from periscope_perf.targets import FP32, Candidate, Plan, QualityPlan
from periscope_serve.errors import ServeError


class Exported:
    """The repository of a candidate, exported when it is first asked for; its `rivals` are removed then."""

    def __init__(self, checkpoint: Path, recipe: str, candidate: Candidate, folder: Path, say: Say) -> None:
        self._request = Request(
            str(checkpoint.resolve()),
            recipe,
            folder / candidate.name,
            precision=candidate.precision,  # type: ignore[arg-type]  # as the plan says: the exporter refuses others
            engine=candidate.engine,
        )
        self.rivals: Sequence[Exported] = ()
        self._say = say
        self._failure = ""

    def __call__(self) -> Path:
        """The repository. Raises `SideError`, and the same one again, when it cannot be exported."""
        if self._failure:
            raise SideError(self._failure)
        if not self._request.output.is_dir():
            for rival in self.rivals:
                rival.remove()
            self._say(f"exporting {self._request.recipe}: {self._request.output.name}")
            try:
                for line in in_another_process(self._request):
                    self._say(f"  {line}")
            except (ExportError, BrokenProcessPool) as error:
                self._failure = f"export, {self._request.output.name}: {error}"
                raise SideError(self._failure) from None
        return self._request.output

    def remove(self) -> None:
        """Make room. It is exported again when it is asked for again."""
        shutil.rmtree(self._request.output, ignore_errors=True)


def in_another_process(request: Request) -> list[str]:
    """Export, and return what was said of fidelity. The memory that quantising takes goes with its process.

    Raises `ExportError`, and `BrokenProcessPool` when the process was killed.
    """
    # Not forked: torch has threads here already.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_export, request).result()


def _export(request: Request) -> list[str]:
    lines: list[str] = []
    export(request, lines.append)
    return [line for line in lines if line.startswith("fidelity:")]


def exports(
    checkpoint: Path, recipe: str, plan: Plan, folder: Path, say: Say, *, one_at_a_time: bool
) -> dict[Candidate, Exported]:
    """The repositories of all candidates; with `one_at_a_time` the disk never holds two of them."""
    found = {candidate: Exported(checkpoint, recipe, candidate, folder, say) for candidate in plan.candidates}
    for one in found.values():
        one.rivals = [other for other in found.values() if one_at_a_time and other is not one]
    return found


def ndcg5(candidate: Candidate, plan: QualityPlan, folder: Path, say: Say) -> float:
    """nDCG@5 of the demonstration's retriever, exported for a candidate to a folder and served. Raises `SideError`."""
    repository = Exported(shipped_checkpoint(), SHIPPED_RECIPE, candidate, folder, say)()
    say(f"demonstration, {candidate.name}: ranking {plan.pages} pages")
    try:
        return demo_ndcg5(repository, SHIPPED_RECIPE, plan.pages, plan.queries, folder / f"{candidate.name}.log")
    except (PeriscopeError, ServeError) as error:
        raise SideError(f"demonstration, {candidate.name}: {error}") from None


def demonstration(plan: Plan, conditions: Conditions, findings: Findings, say: Say) -> list[Candidate]:
    """Export the trained retriever for every candidate and serve it; return those that rank nearly as well as fp32."""
    sides: dict[str, Side] = {}
    folder = conditions.scratch / "demo"
    for candidate in plan.candidates:
        try:
            findings.ndcg5[candidate.name] = ndcg5(candidate, plan.quality, folder, say)
        except SideError as error:
            findings.failures[f"demo/{candidate.name}"] = str(error)
            continue
        sides[f"start/demo/served-{candidate.name}"] = _start(folder / candidate.name, folder / "start.log")
    findings.add(interleave(sides, conditions.rounds, say))
    floor = findings.ndcg5.get(FP32.name, 0.0) - plan.quality.within
    return [candidate for candidate in plan.candidates if findings.ndcg5.get(candidate.name, -1.0) >= floor]


def best_of(good: Sequence[Candidate], system: str, findings: Findings) -> str:
    """The candidate that embeds most pages of a system a second, of those that rank well; "" where there is none.

    One candidate alone needs no figures.
    """
    rates = {
        candidate.name: sum(rates) / len(rates)
        for candidate in good
        if (rates := findings.figures.get(f"pages/{system}/served-{candidate.name}"))
    }
    return max(rates, key=rates.__getitem__, default=good[0].name if len(good) == 1 else "")


def _start(repository: Path, log: Path) -> Side:
    return lambda: seconds_to_ready(repository, SHIPPED_RECIPE, log)
