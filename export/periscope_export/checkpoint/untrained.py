"""A doubt about late projections: whether one was ever trained, or is as random as when it was made.

A base that adapters are trained on holds one too, stored so that all adapters start from the same; without an adapter
its vectors mean nothing, and nothing else shows it.
"""

from __future__ import annotations

import math

import torch

from periscope_export.checkpoint.reading import Weights

# The largest singular value of independent numbers is within a few hundredths of what their number and deviation give
# (Marchenko and Pastur); training adds directions that are larger.
_SPREAD = 1.05


def untrained(weight_KH: torch.Tensor) -> bool:
    """Whether a projection looks like independent random numbers of one deviation."""
    rows, columns = weight_KH.shape
    weight_KH = weight_KH.to(torch.float32)
    edge = weight_KH.std() * (math.sqrt(rows) + math.sqrt(columns))
    largest = torch.linalg.eigvalsh(weight_KH @ weight_KH.T)[-1].sqrt()  # K is small
    return bool(largest <= _SPREAD * edge)


def doubt(weights: Weights) -> str | None:
    """Return a line about the late projection of these weights; None where it gives no reason, or there is none.

    One that an adapter changes was trained, however little.
    """
    name = "late_head.projection.weight"
    if name not in set(weights.keys()) - weights.adapted() or not untrained(weights.read(name)):
        return None
    return (
        "the late projection may be untrained: it looks like independent random numbers. Is this a base that adapters "
        "are trained on? Without an adapter its vectors mean nothing."
    )
