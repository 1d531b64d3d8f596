"""The learning curve: how the numbers in the logs of a training went."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

_DRAWN = {"read": "words read right", "late@1": "late: right page first", "dense@1": "dense: right page first"}


def draw_curve(logs: Sequence[Path], picture: Path) -> None:
    """Draw the logs of the stages one after the other into a PNG: the share read and found in batches never seen."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    start, steps, values = 0, [], {name: [] for name in _DRAWN}  # type: tuple[int, list[int], dict[str, list[float]]]
    for log in logs:
        with log.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                steps.append(start + int(row["step"]))
                for name, column in values.items():
                    column.append(float(row[name]))
        axes.axvline(start, color="0.8", linewidth=1)
        start = steps[-1] if steps else start
    for name, column in values.items():
        axes.plot(steps, column, label=_DRAWN[name])
    axes.set(xlabel="step", ylabel="share", ylim=(0, 1.02), title="Learning, on fresh batches")
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=110, metadata={"Software": None})
