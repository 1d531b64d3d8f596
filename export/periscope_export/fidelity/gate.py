"""Whether graphs are close enough to the fp32 towers to be served, and what is said where they are not.

MaxSim is a sum over the tokens of a query, so a score's tolerance is one by token; the lowest cosine of a vector and
the order of pages decide beside it. Pages whose scores lie closer together than that tolerance may change places: a
precision cannot keep apart what it does not resolve, and random weights make little else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from periscope_export.errors import ExportError
from periscope_export.fidelity.record import Measured
from periscope_export.fidelity.samples import sample_name
from periscope_export.recipes.schema import Tolerance

# The remedy where nothing else is known to help.
REPORT = (
    "These graphs would serve other vectors than the checkpoint's: export again, and if it stays, report the versions "
    "of torch and onnxruntime."
)


class FidelityError(ExportError):
    """Graphs that are too far from the towers; `measured` says how far."""

    def __init__(self, message: str, measured: Measured | None = None) -> None:
        super().__init__(message)
        self.measured = measured or {}


def recorded(tolerance: float | Mapping[str, Any]) -> Tolerance:
    """Return what a repository was exported with. Earlier versions wrote one number, for vectors and for scores."""
    if isinstance(tolerance, Mapping):
        return Tolerance.model_validate(tolerance)
    return Tolerance(vectors=tolerance, scores=tolerance)


def require(measured: Measured, tolerance: Tolerance, remedy: str = REPORT) -> None:
    """Raise `FidelityError` where graphs are further from the towers than allowed; `remedy` says what would not be."""
    if found := problems(measured, tolerance):
        raise FidelityError(f"fidelity: {'; '.join(found)}. {remedy}", measured)


def problems(measured: Measured, tolerance: Tolerance) -> list[str]:
    """Return what is further from the towers than allowed, where, and through which step; [] where nothing is."""
    vectors, retrieval, found = measured["vectors"], measured["retrieval"], []
    # Not "greater than", here and below: a nan must not pass.
    if tolerance.vectors is not None and not vectors["max_abs_error"] <= tolerance.vectors:
        found.append(f"vectors differ by {vectors['max_abs_error']:.2e} (allowed: {tolerance.vectors:.0e})")
    for what, cosine, lowest in (
        ("lowest", vectors["min_cosine"], tolerance.cosine),
        ("mean", vectors["mean_cosine"], tolerance.mean_cosine),
    ):
        if not cosine >= lowest:
            found.append(f"the {what} cosine of vectors is {cosine:.4f} (allowed: {lowest})")
    if found:
        found[-1] += f", furthest: {', '.join(_vector(vector) for vector in vectors['furthest'])}"
    if not retrieval["max_error_by_token"] <= tolerance.scores:
        found.append(
            f"scores differ by {retrieval['max_error_by_token']:.2e} a token of the query (allowed: "
            f"{tolerance.scores:.0e}), {_score(retrieval['furthest'])}"
        )
    if not retrieval["largest_swapped_gap"] <= tolerance.scores:
        found.append(
            f"pages changed places whose scores lie {retrieval['largest_swapped_gap']:.2e} a token apart (allowed: "
            f"{tolerance.scores:.0e})"
        )
    return found


def brings_in(since: Mapping[str, float]) -> str:
    """Return the step that brings in most of an error, given what is left of it from each step on."""
    errors = [error if math.isfinite(error) else 4.0 for error in since.values()]  # more than a real one
    brought = [error - left for error, left in zip(errors, [*errors[1:], 0.0], strict=True)]
    return list(since)[brought.index(max(brought))]


def furthest_step(measured: Measured, tolerance: Tolerance) -> str:
    """Return the step that brings in most of what is wrong: of the furthest vector, or else of the furthest score."""
    vectors = measured["vectors"]
    near = vectors["min_cosine"] >= tolerance.cosine and vectors["mean_cosine"] >= tolerance.mean_cosine
    if not near and vectors["furthest"]:
        return brings_in(_losses(vectors["furthest"][0]))
    return brings_in(measured["retrieval"]["furthest"]["since"])


def _losses(vector: Measured) -> dict[str, float]:
    return {step: 1 - cosine for step, cosine in vector["since"].items()}


def _vector(vector: Measured) -> str:
    item = sample_name(vector["path"], vector["row"])
    where = item if vector["token"] is None else f"token {vector['token'] + 1} of {item}"
    return f"{where} {vector['cosine']:.4f} through {brings_in(_losses(vector))}"


def _score(score: Measured) -> str:
    items = dict.fromkeys(sample_name(*score[side]) for side in ("query", "document"))
    where = " with ".join(items)
    return f"{where} {score['score']:.4f} instead of {score['exact']:.4f} through {brings_in(score['since'])}"
