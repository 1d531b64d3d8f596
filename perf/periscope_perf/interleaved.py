"""Measurements that take turns, so that what the machine does meanwhile falls on all of them alike.

A side is a function that measures once and returns a figure. Every side is called once to warm up, and then once a
round; each round begins with another side, so that none always follows the same one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Say = Callable[[str], None]
Side = Callable[[], float]


class SideError(Exception):
    """A side cannot be measured; the others go on without it."""


@dataclass
class Rounds:
    """The outcome of measuring in turns.

    figures: of each side, one a round.
    failures: the reason why a side has none.
    """

    figures: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """The middle figure of a side."""
        return statistics.median(self.figures[name])

    def ratios(self, over: str, under: str) -> list[float]:
        """One side against another in each round: what disturbed a round disturbed both."""
        return [one / other for one, other in zip(self.figures[over], self.figures[under], strict=True)]


def interleave(sides: Mapping[str, Side], rounds: int, say: Say) -> Rounds:
    """Measure every side in every round. A side that raises `SideError` is left out from then on, with the reason."""
    found = Rounds({name: [] for name in sides})
    for name in sides:
        _measured(found, sides, name, warm_up=True)
    for number in range(rounds):
        running = [name for name in sides if name not in found.failures]
        # No side is left: nothing to turn.
        first = number % len(running) if running else 0
        for name in running[first:] + running[:first]:
            _measured(found, sides, name)
        figures = ", ".join(f"{name} {found.figures[name][-1]:.3g}" for name in running if name in found.figures)
        say(f"round {number + 1} of {rounds}: {figures}")
    return found


def _measured(found: Rounds, sides: Mapping[str, Side], name: str, warm_up: bool = False) -> None:
    try:
        figure = sides[name]()
    except SideError as error:
        found.failures[name] = str(error)
        del found.figures[name]  # a side with fewer rounds has no ratio with the others
    else:
        if not warm_up:
            found.figures[name].append(figure)
