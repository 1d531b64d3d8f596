"""Findings of a comparison: figures by name, and their context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from periscope_perf.interleaved import Rounds
from periscope_perf.quality import Closeness


@dataclass
class Findings:
    """The findings of a run.

    figures: one a round, named as `targets.yaml` says.
    failures: the reason why someone has no figures, by name.
    closeness: to the reference, by SYSTEM/CONTENDER.
    ndcg5: of the demonstration's retriever, by candidate.
    versions: of what a contender computes with.
    best: the best candidate.
    """

    figures: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    closeness: dict[str, Closeness] = field(default_factory=dict)
    ndcg5: dict[str, float] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    best: str = ""

    def add(self, rounds: Rounds) -> None:
        """Add what took turns."""
        self.figures |= rounds.figures
        self.failures |= rounds.failures

    def forget(self, system: str, names: Iterable[str]) -> None:
        """Drop the figures of contenders who are measured again: a ratio must not be between turns."""
        again = tuple(f"/{system}/{name}" for name in names)
        self.figures = {name: values for name, values in self.figures.items() if not name.endswith(again)}


def candidate_of(contender: str) -> str:
    """The candidate that a server or a loop runs; "" of everyone else."""
    kind, _, candidate = contender.partition("-")
    return candidate if kind in ("served", "bare") else ""


def precision_of(name: str) -> str:
    """The precision of a contender or a candidate: the last word of its name."""
    return name.rpartition("-")[2]


def with_best(figures: Mapping[str, list[float]], best: str) -> dict[str, list[float]]:
    """Return the figures, and those of the best candidate once more as "best"."""
    named = dict(figures)
    if best:
        for name, values in figures.items():
            if name.endswith((f"/served-{best}", f"/bare-{best}")):
                named[name.removesuffix(best) + "best"] = values
    return named
