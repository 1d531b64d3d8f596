"""The record of a run of `make bench`: a CSV row a figure, and the whole as JSON, with versions and the command."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from periscope_perf.findings import Findings, candidate_of
from periscope_perf.machine import commit, machine, versions
from periscope_perf.targets import Verdict

_PACKAGES = (
    "periscope-retrieval",
    "onnxruntime",
    "openvino",
    "torch",
    "numpy",
    "pillow",
    "tokenizers",
    "tritonclient",
    "nvidia-pytriton",
)

_UNITS = {
    "pages": "pages/s",
    "prepare": "pages/s",
    "query": "s",
    "query-indexing": "s",
    "start": "s",
    "gflops": "GFLOP/s",
    "peak": "GFLOP/s",
    "share-of-peak": "1",
    "memory": "bytes",
    "weights": "bytes",
}


def write(
    folder: Path,
    findings: Findings,
    verdicts: Sequence[Verdict],
    command: str,
    *,
    processor: str,
    full_depth: bool = False,
) -> list[Path]:
    """Write `<date>-<machine>-beside-peers.csv` and `.json`, or `...-beside-peers-full-depth`; return both.

    `processor`: the class whose targets these are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here, now = machine(), datetime.now(timezone.utc)
    about: dict[str, Any] = {
        "measured_at": now.isoformat(timespec="seconds"),
        "machine": here.name,
        "commit": commit(),
        "versions": versions(*_PACKAGES),
        "command": command,
    }
    # Another depth is another comparison: it must not take the place of the day's run at the usual one.
    depth = "-full-depth" if full_depth else ""
    path = folder / f"{now:%Y-%m-%d}-{here.name}-beside-peers{depth}.csv"
    rows = _rows(findings, about)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["figure"])
        writer.writeheader()
        writer.writerows(rows)
    whole = {
        **about,
        "machine": asdict(here) | {"name": here.name},
        "processor": processor,
        "best": findings.best,
        "targets": [
            {
                "name": verdict.target.name,
                "value": verdict.value,
                "target": verdict.target.wanted,
                "passed": verdict.passed,
                "rounds": verdict.rounds,
                "missing": verdict.missing,
            }
            for verdict in verdicts
        ],
        "figures": findings.figures,
        "closeness": {name: asdict(one) for name, one in findings.closeness.items()},
        "ndcg5": findings.ndcg5,
        "contenders": findings.versions,
        "failures": findings.failures,
    }
    as_json = path.with_suffix(".json")
    as_json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return [path, as_json]


def _rows(findings: Findings, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row a figure; the quality of a contender stands in each of its rows."""
    rows = []
    for name, values in sorted(findings.figures.items()):
        kind, _, rest = name.partition("/")
        close = findings.closeness.get(rest)
        candidate = candidate_of(rest.rpartition("/")[2])
        computed = findings.versions.get(rest, about["versions"])
        rows.append(
            {
                "figure": name,
                "median": f"{statistics.median(values):.6g}",
                "unit": _UNITS[kind],
                "lowest": f"{min(values):.6g}",
                "highest": f"{max(values):.6g}",
                "rounds": len(values),
                "cosine": "" if close is None or close.cosine is None else f"{close.cosine:.6f}",
                "mean_cosine": "" if close is None or close.mean_cosine is None else f"{close.mean_cosine:.6f}",
                "same_order": "" if close is None else f"{close.same_order:.4f}",
                "demo_ndcg5": f"{findings.ndcg5[candidate]:.4f}" if candidate in findings.ndcg5 else "",
                **{key: about[key] for key in ("measured_at", "machine", "commit")},
                "versions": " ".join(f"{package} {found}" for package, found in computed.items()),
                "command": about["command"],
            }
        )
    return rows
