"""Plots of a run: latency against throughput, and where the time of a request goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from periscope_perf.results import Row, Setting

_PERCENTILES = (("p50_us", "o-", "p50"), ("p95_us", "s--", "p95"))
_TIMES = (("queue_us", 0.35), ("input_us", 0.6), ("infer_us", 1.0), ("output_us", 0.6))
_WIDTH, _HEIGHT = 4.4, 3.4


def write(folder: Path, setting: Setting, rows: Sequence[Row]) -> list[Path]:
    """Draw both as `<stem>-latency.png` and `<stem>-steps.png`; the paths of those that have anything to show."""
    by_scenario: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_scenario[row.scenario].append(row)
    written = []
    for name, draw, wanted in (("latency", _latency, "request"), ("steps", _steps, "step")):
        shown = {scenario: found for scenario, found in by_scenario.items() if any(row.part == wanted for row in found)}
        if shown:
            path = folder / f"{setting.stem()}-{name}.png"
            _figure(path, setting, shown, draw)
            written.append(path)
    return written


def _figure(path: Path, setting: Setting, shown: dict[str, list[Row]], draw: Any) -> None:
    # Without pyplot: it would choose a backend, and keep every figure.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH * len(shown), _HEIGHT + 0.4), layout="constrained")
    figure.suptitle(
        f"{setting.retriever}, {setting.engine} {setting.precision}, {setting.machine}, {setting.date[:10]}", fontsize=9
    )
    for axes, (scenario, rows) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        axes.set_title(scenario, fontsize=9)
        draw(axes, rows)
        axes.tick_params(labelsize=7)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _latency(axes: Any, rows: Sequence[Row]) -> None:
    """Milliseconds over items a second; a sweep of concurrencies is a line, random arrivals are crosses."""
    for field, style, label in _PERCENTILES:
        for load, mark in (("concurrency", style), ("request_rate", "x")):
            points = [
                (row.items_per_s, getattr(row, field) / 1000, row.level)
                for row in rows
                if row.part == "request" and row.load == load and getattr(row, field) is not None
            ]
            if not points:
                continue
            colour = "tab:blue" if field == "p50_us" else "tab:orange"
            name = label if load == "concurrency" else f"{label}, random arrivals"
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], mark, color=colour, label=name, ms=4)
            if load == "concurrency" and field == "p50_us":
                for x, y, level in points:
                    axes.annotate(f"{level:g}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set(xlabel="a second (beside the points: requests in flight)", ylabel="latency, ms")
    axes.margins(0.1)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    _legend(axes)


def _steps(axes: Any, rows: Sequence[Row]) -> None:
    """A bar a level, a colour a step: waiting pale, computing full."""
    levels = list(dict.fromkeys((row.load, row.level) for row in rows))
    steps = list(dict.fromkeys(row.model for row in rows if row.part == "step"))
    colours = {step: f"C{number % 10}" for number, step in enumerate(steps)}
    for place, (load, level) in enumerate(levels):
        bottom = 0.0
        for row in rows:
            if row.part != "step" or (row.load, row.level) != (load, level):
                continue
            for field, strength in _TIMES:
                height = (getattr(row, field) or 0.0) / 1000
                axes.bar(place, height, 0.7, bottom=bottom, color=colours[row.model], alpha=strength)
                bottom += height
    for step in steps:
        axes.bar(0, 0, color=colours[step], label=step)
    axes.set_xlim(-0.6, max(len(levels), 3) - 0.4)
    ticks = [f"{level:.3g}{' in flight' if load == 'concurrency' else '/s'}" for load, level in levels]
    axes.set_xticks(range(len(levels)), ticks, rotation=30, ha="right")
    axes.set(ylabel="ms a request (pale: waiting)")
    _legend(axes)


def _legend(axes: Any) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
