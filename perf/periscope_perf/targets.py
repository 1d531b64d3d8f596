"""Targets as data: what `targets.yaml` holds, and what figures make of a target."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

PLAN = Path(__file__).with_name("targets.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Candidate(_Strict):
    """An engine and a precision that might be the best one here."""

    engine: str
    precision: str

    @property
    def name(self) -> str:
        """What figures call it."""
        return self.precision if self.engine == "onnxruntime" else f"{self.engine}-{self.precision}"


FP32 = Candidate(engine="onnxruntime", precision="fp32")
"""What the quality of candidates is compared with."""


class QualityPlan(_Strict):
    """Size of the demonstration's evaluation, and how much nDCG@5 a candidate may lose to fp32."""

    pages: int
    queries: int
    within: float


class SystemPlan(_Strict):
    """A system: the size of its pages (width, height), how many of them and of queries a round, and its peers."""

    page: tuple[int, int]
    pages: int = Field(ge=1)
    queries: int = Field(ge=1)
    peers: tuple[str, ...]


class Target(_Strict):
    """A figure, or one over another, and what it has to reach: `at_least` or `at_most`."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    over: str
    under: str | None = None
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_direction(self) -> Target:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"target {self.name} needs at_least or at_most, and not both")
        return self

    @property
    def wanted(self) -> str:
        """What it has to reach, in one word."""
        return f">={self.at_least:g}" if self.at_least is not None else f"<={self.at_most:g}"

    def reached(self, value: float) -> bool:
        """Whether a value is enough."""
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)


class Plan(_Strict):
    """The whole file."""

    rounds: int = Field(ge=1)
    candidates: tuple[Candidate, ...]
    quality: QualityPlan
    reference: str
    systems: Mapping[str, SystemPlan]
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Verdict:
    """What became of a target: `value` is None where a figure is missing, and `missing` names it then."""

    target: Target
    value: float | None
    rounds: tuple[float, ...] = ()
    missing: str = ""

    @property
    def passed(self) -> bool:
        """Whether it was reached. What could not be measured was not."""
        return self.value is not None and self.target.reached(self.value)

    def line(self) -> str:
        """`name value target pass|fail`."""
        value = "missing" if self.value is None else f"{self.value:.3g}"
        return f"{self.target.name} {value} {self.target.wanted} {'pass' if self.passed else 'fail'}"


def load_plan(path: Path = PLAN) -> Plan:
    """Read and check a plan. Raises pydantic's `ValidationError`."""
    return Plan.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def judge(target: Target, figures: Mapping[str, Sequence[float]]) -> Verdict:
    """Compare a target with figures: the median of the ratios of each round where both have the same rounds."""
    for name in (target.over, target.under):
        if name is not None and not figures.get(name):
            return Verdict(target, None, missing=name)
    over = figures[target.over]
    if target.under is None:
        return Verdict(target, statistics.median(over), tuple(over))
    under = figures[target.under]
    if len(over) == len(under):
        ratios = tuple(one / other for one, other in zip(over, under, strict=True))
        return Verdict(target, statistics.median(ratios), ratios)
    return Verdict(target, statistics.median(over) / statistics.median(under))
