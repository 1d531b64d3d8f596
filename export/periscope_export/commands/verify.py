"""`periscope verify DIR`: measure a repository's fidelity again, on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from periscope_export import fidelity
from periscope_export.errors import ExportError
from periscope_export.openvino_run import openvino_runner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("repository", type=Path, metavar="DIR", help="a repository written by periscope export")
    parser.add_argument("--json", action="store_true", help="print the measurement as JSON")


def run(args: argparse.Namespace) -> int:
    """Compare files and graphs with what the export recorded."""
    try:
        report = fidelity.read_fidelity(args.repository)
        fidelity.check_files(args.repository, report["files"])
        golden = fidelity.read_golden(args.repository / fidelity.GOLDEN_FILE)
        measured = fidelity.measure(golden, report["order"], _runner(args.repository, report))
        print(json.dumps(measured, indent=2) if args.json else _table(measured, report))
        fidelity.check(measured, report["tolerance"])
    except ExportError as error:
        print(f"periscope verify: {error}", file=sys.stderr)
        return 1
    return 0


def _runner(repository: Path, report: fidelity.Measured) -> fidelity.Run:
    """Return what runs the steps: graphs in onnxruntime or openvino, or plans on the GPU, for which torch is needed."""
    if report["engine"] == "openvino":
        return openvino_runner(repository, report["retriever"])
    if not any(repository.glob("*/1/model.plan")):
        return fidelity.graph_runner(repository, report["retriever"])
    from periscope_export.tensorrt_run import plan_runner

    return plan_runner(repository, report["retriever"])


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
