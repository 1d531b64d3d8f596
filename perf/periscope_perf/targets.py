"""Targets as data: the fields of `targets.yaml`, and the verdict that figures give on a target."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

PLAN = Path(__file__).with_name("targets.yaml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Processor(_Strict):
    """A class of processors, by what it has.

    says: the class in words.
    instructions: what all of its processors have, as the flags of /proc/cpuinfo.
    precisions: what is measured on them.
    """

    says: str
    instructions: tuple[str, ...]
    precisions: tuple[str, ...]


class Candidate(_Strict):
    """An engine and a precision that might be the best one here."""

    engine: str
    precision: str

    @property
    def name(self) -> str:
        """Its name in figures."""
        return self.precision if self.engine == "onnxruntime" else f"{self.engine}-{self.precision}"


FP32 = Candidate(engine="onnxruntime", precision="fp32")
"""The candidate that the quality of the others is compared with."""


class QualityPlan(_Strict):
    """The demonstration's evaluation.

    pages, queries: how many of each.
    within: how much nDCG@5 a candidate may lose to fp32.
    """

    pages: int
    queries: int
    within: float


class SystemPlan(_Strict):
    """A system.

    page: width and height of its pages.
    pages, queries: how many of each a round.
    peers: those that are measured beside it.
    """

    page: tuple[int, int]
    pages: int = Field(ge=1)
    queries: int = Field(ge=1)
    peers: tuple[str, ...]


class Target(_Strict):
    """A figure, or one over another, and what it has to reach.

    name: in the results.
    over, under: the figures, named as `targets.yaml` says; no `under` for the figure itself.
    at_least, at_most: what it has to reach; one of the two.
    """

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
        """The value to reach, in one word."""
        return f">={self.at_least:g}" if self.at_least is not None else f"<={self.at_most:g}"

    def reached(self, value: float) -> bool:
        """Whether a value is enough."""
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)


class PlannedTarget(_Strict):
    """A target whose bound is one number, or one for each class of processors that has the target."""

    name: str
    over: str
    under: str | None = None
    at_least: float | Mapping[str, float] | None = None
    at_most: float | Mapping[str, float] | None = None

    @property
    def classes(self) -> set[str]:
        """Names of the classes that its bounds are for; none where they hold everywhere."""
        return {name for bound in (self.at_least, self.at_most) if isinstance(bound, Mapping) for name in bound}

    def on(self, processor: str) -> Target | None:
        """Return the target on a class of processors, None where the class does not have it.

        Raises pydantic's `ValidationError` when it has no bound, or two.
        """
        if self.classes and processor not in self.classes:
            return None
        bounds = [
            bound.get(processor) if isinstance(bound, Mapping) else bound for bound in (self.at_least, self.at_most)
        ]
        return Target(name=self.name, over=self.over, under=self.under, at_least=bounds[0], at_most=bounds[1])


class Plan(_Strict):
    """The whole file.

    rounds: how often each contender is measured.
    processors: by name; the first whose instructions a machine has is its class.
    candidates: engines and precisions, one of which is best.
    quality: how well a candidate has to rank.
    reference: the peer whose vectors all others' are compared with.
    systems: what is measured of each, by its name.
    targets: what has to be reached.
    """

    rounds: int = Field(ge=1)
    processors: Mapping[str, Processor]
    candidates: tuple[Candidate, ...]
    quality: QualityPlan
    reference: str
    systems: Mapping[str, SystemPlan]
    targets: tuple[PlannedTarget, ...]

    @model_validator(mode="after")
    def _every_machine_has_a_class_and_every_bound_too(self) -> Plan:
        if not self.processors or list(self.processors.values())[-1].instructions:
            raise ValueError("the last of the processors is to be every other one: instructions: []")
        for target in self.targets:
            if unknown := target.classes - set(self.processors):
                raise ValueError(
                    f"target {target.name} has a bound for {', '.join(sorted(unknown))}: no such processor"
                )
        for processor in self.processors:
            self.targets_on(processor)
        return self

    def processor(self, instructions: Collection[str]) -> str:
        """Return the class of a processor with these instructions."""
        return next(name for name, one in self.processors.items() if set(one.instructions) <= set(instructions))

    def targets_on(self, processor: str) -> list[Target]:
        """Return the targets of a class of processors."""
        return [found for target in self.targets if (found := target.on(processor)) is not None]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a target.

    target: what was to be reached.
    value: the median over the rounds; None where a figure is missing.
    rounds: the value of each round.
    missing: the name of the figure that is.
    """

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

    def loss(self) -> str:
        """A failure in words: the figure that is missing, or what was found, in which rounds, and what is wanted."""
        if self.value is None:
            return f"missing: {self.target.name} needs {self.missing}"
        several = f" ({min(self.rounds):.3g} to {max(self.rounds):.3g})" if len(self.rounds) > 1 else ""
        return f"lost: {self.target.name} is {self.value:.3g}{several}, wanted {self.target.wanted}"


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
