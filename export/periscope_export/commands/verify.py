"""`periscope verify DIR`: measure a repository's fidelity again, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from periscope_export.engines import ENGINES
from periscope_export.errors import ExportError
from periscope_export.fidelity import gate
from periscope_export.fidelity import record as fidelity
from periscope_export.fidelity.closeness import measure
from periscope_runtime.stored_weights import not_finite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("repository", type=Path, metavar="DIR", help="a repository written by periscope export")
    parser.add_argument("--json", action="store_true", help="print the measurement as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare files and graphs with what the export recorded."""
    try:
        report = fidelity.read_fidelity(args.repository)
        fidelity.check_files(args.repository, report["files"])
        _require_numbers(args.repository)
        golden = fidelity.read_golden(args.repository / fidelity.GOLDEN_FILE)
        measured = measure(golden, report["order"], _run(args.repository, report))
        print(json.dumps(measured, indent=2) if args.json else _table(measured, report))
        gate.require(measured, gate.recorded(report["tolerance"]))
    except ExportError as error:
        print(error.line("verify"), file=sys.stderr)
        return 1
    return 0


def _require_numbers(repository: Path) -> None:
    """Raise `ExportError` naming every weight of a graph that is no number. Plans are measured, not looked into."""
    spoilt = [
        f"{weight} of {graph.parent.parent.name}"
        for graph in sorted((*repository.glob("*/*/model.onnx"), *repository.glob("*/*/model.xml")))
        for weight in not_finite(graph)
    ]
    if spoilt:
        raise ExportError(
            f"verify: these weights hold infinity or nan, as those do that overflowed: {', '.join(spoilt)}. Items that "
            "read them have no vectors. Export the checkpoint in bf16 or fp32."
        )


def _run(repository: Path, report: fidelity.Measured) -> fidelity.Run:
    """Return a function that runs the steps in the engine that the repository is for.

    Raises `ExportError` where that takes a GPU and there is none.
    """
    return ENGINES[report["engine"]].run(repository, report["retriever"], report["precision"])


def _table(measured: fidelity.Measured, report: fidelity.Measured) -> str:
    lines = [f"{report['retriever']}: {report['recipe']}, {report['precision']}, fingerprint {report['fingerprint']}"]
    lines.append(f"{'step':<18}{'max abs error':>15}{'at export':>15}{'min cosine':>14}")
    rows = {**measured["steps"], "vectors": measured["vectors"]}
    recorded = {**report["measured"]["steps"], "vectors": report["measured"]["vectors"]}
    for name, row in rows.items():
        before = recorded[name]["max_abs_error"]
        lines.append(f"{name:<18}{row['max_abs_error']:>15.2e}{before:>15.2e}{row['min_cosine']:>14.8f}")
    retrieval = measured["retrieval"]
    lines.append(
        f"{retrieval['queries']} queries x {retrieval['pages']} pages: scores within {retrieval['max_abs_error']:.2e}, "
        f"Kendall's tau {retrieval['kendall_tau']:.3f}, same first page {retrieval['same_first_page']:.0%}"
    )
    return "\n".join(lines)
