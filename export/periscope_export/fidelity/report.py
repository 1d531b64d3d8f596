"""The report of an export, `fidelity.json`, and the line about it that the user reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from periscope_export.fidelity.record import (
    FIDELITY_FILE,
    GOLDEN_FILE,
    Golden,
    Measured,
    file_digests,
    file_sizes,
    stamp,
    versions,
    write_golden,
)
from periscope_export.recipes.schema import Recipe


def write_report(folder: Path, recipe: Recipe, precision: str, golden: Golden, said: Mapping[str, Any]) -> None:
    """Write golden tensors and the report beside the models of `folder`, whose other files are all there.

    `said`: what only the export knows, by the names of the report.
    """
    write_golden(folder / GOLDEN_FILE, golden)
    report = {
        **said,
        "tolerance": recipe.tolerance[precision].model_dump(),
        "measured_at": stamp(),
        "versions": versions(),
        "reference": recipe.reference.model_dump(),
        "files": file_digests(folder),
        "sizes": file_sizes(folder),
    }
    (folder / FIDELITY_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def closeness(measured: Measured, precision: str) -> str:
    """Return how close what was measured is; below fp32 with the cosines, which are what decides there."""
    vectors, scores = measured["vectors"], measured["retrieval"]
    said = [f"vectors within {vectors['max_abs_error']:.1e}"] if vectors["vectors"] else []
    said += [f"scores within {scores['max_abs_error']:.1e}"] if scores else []
    if precision != "fp32" and vectors["vectors"]:
        cosines = f"cosines {vectors['min_cosine']:.4f} at least and {vectors['mean_cosine']:.5f} in the mean"
        return f"{', '.join(said)} of the towers', {cosines}"
    return f"{', '.join(said)} of the towers'"
