"""Groups of contenders that are in memory at the same time.

Six peers, and a server and a loop for each candidate, do not fit beside each other. So the candidates are compared
among themselves first. Then the one in fp32 stands beside the peers in fp32, and the best beside all others, with those
in the precision of these. Both sides of every ratio that a target has are in one group: it comes from the same rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

from periscope_perf.findings import precision_of
from periscope_perf.targets import FP32


def beside_peers(best: str, candidates: Sequence[str], peers: Sequence[str]) -> list[list[str]]:
    """Groups of contenders' names, once the best candidate is known; "" where none works."""
    exact = [peer for peer in peers if precision_of(peer) == FP32.precision]
    others = [peer for peer in peers if peer not in exact]
    precisions = {precision_of(peer) for peer in others}
    equal = [f"served-{name}" for name in candidates if precision_of(name) in precisions and name != best]
    ours = [f"served-{best}", f"bare-{best}", *equal] if best else equal
    if best == FP32.name:
        return [[*ours, *exact, *others]]
    served = [f"served-{FP32.name}"] if FP32.name in candidates else []
    return [group for group in ([*served, *exact], [*ours, *others]) if group]


def one_by_one(candidates: Sequence[str], peers: Sequence[str]) -> list[list[str]]:
    """A group for each contender: ratios are between figures of different minutes."""
    names = [f"{kind}-{candidate}" for candidate in candidates for kind in ("served", "bare")]
    return [[name] for name in (*names, *peers)]
