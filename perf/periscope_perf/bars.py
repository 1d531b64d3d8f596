"""A picture of a comparison: pages a second and milliseconds a query of everyone, system by system.

Beside each bar stands how good what it made is: cosine with the reference (the lowest), nDCG@5 of the demonstration.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from periscope_perf.findings import Findings, candidate_of

# Kind of figure, its factor, and what the axis says.
_KINDS = (("pages", 1.0, "pages/s (more is better)"), ("query", 1000.0, "ms a query (less is better)"))
_OURS, _BARE, _PEER = "tab:blue", "tab:cyan", "tab:grey"
_WIDTH, _BAR, _REST = 5.2, 0.27, 1.0


def write(path: Path, findings: Findings) -> list[Path]:
    """Draw a row a system; the path, or nothing where nobody has a figure."""
    systems = list(dict.fromkeys(name.split("/")[1] for name in findings.figures if name.startswith("pages/")))
    if not systems:
        return []
    # Without pyplot: it would choose a backend, and keep every figure.
    from matplotlib.figure import Figure

    shown = {system: _contenders(findings, system) for system in systems}
    heights = [_REST + _BAR * len(names) for names in shown.values()]
    figure = Figure(figsize=(_WIDTH * len(_KINDS), sum(heights) + 0.4), layout="constrained")
    figure.suptitle("medians of rounds, whiskers to the lowest and the highest", fontsize=9)
    grid = figure.subplots(len(systems), len(_KINDS), squeeze=False, height_ratios=heights)
    for row, (system, names) in zip(grid, shown.items(), strict=True):
        for axes, (kind, factor, label) in zip(row, _KINDS, strict=True):
            _draw(axes, findings, system, names, kind, factor)
            axes.set_title(system, fontsize=9)
            axes.set_xlabel(label, fontsize=8)
            axes.tick_params(labelsize=7)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return [path]


def _contenders(findings: Findings, system: str) -> list[str]:
    """Names of the servers, loops and peers that embedded pages."""
    prefix = f"pages/{system}/"
    names = [name.removeprefix(prefix) for name in findings.figures if name.startswith(prefix)]
    return sorted(names, key=lambda name: (not name.startswith("served-"), not name.startswith("bare-"), name))


def _draw(axes: Any, findings: Findings, system: str, names: list[str], kind: str, factor: float) -> None:
    most = 0.0
    for place, name in enumerate(names):
        values = [factor * value for value in findings.figures.get(f"{kind}/{system}/{name}", ())]
        if not values:
            continue
        middle, most = statistics.median(values), max(most, *values)
        whiskers = [[middle - min(values)], [max(values) - middle]]
        colour = _OURS if name.startswith("served-") else _BARE if name.startswith("bare-") else _PEER
        axes.barh(place, middle, 0.7, color=colour, xerr=whiskers, error_kw={"lw": 0.8})
        text = f"  {middle:.3g}  {_quality(findings, system, name)}"
        axes.annotate(text, (max(values), place), fontsize=6, va="center")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    # Room for what stands beside the longest bar.
    axes.set_xlim(0, 1.7 * most or 1.0)


def _quality(findings: Findings, system: str, name: str) -> str:
    said = []
    close = findings.closeness.get(f"{system}/{name}")
    if close is not None and close.cosine is not None:
        said.append(f"cosine {close.cosine:.4f}")
    if (candidate := candidate_of(name)) in findings.ndcg5:
        said.append(f"nDCG@5 {findings.ndcg5[candidate]:.3f}")
    return ", ".join(said)
