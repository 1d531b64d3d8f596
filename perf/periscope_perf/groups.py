"""Who is in memory at the same time.

Six peers, and a server and a loop for each candidate, do not fit beside each other. So the candidates are compared
among themselves first; then the best of them stands beside the peers that compute in less than fp32, and the one in
fp32 beside those in fp32. Both sides of every ratio that a target has are in one group: it comes from the same rounds.
"""

from __future__ import annotations

from collections.abc import Sequence

from periscope_perf.peers.catalogue import PEERS
from periscope_perf.targets import FP32


def beside_peers(best: str, candidates: Sequence[str], peers: Sequence[str]) -> list[list[str]]:
    """Groups of contenders' names, once the best candidate is known; "" where none works."""
    exact = [peer for peer in peers if PEERS[peer].precision == "fp32"]
    others = [peer for peer in peers if peer not in exact]
    ours = [f"served-{best}", f"bare-{best}"] if best else []
    if best == FP32.name:
        return [[*ours, *exact, *others]]
    served = [f"served-{FP32.name}"] if FP32.name in candidates else []
    return [group for group in ([*served, *exact], [*ours, *others]) if group]


def one_by_one(candidates: Sequence[str], peers: Sequence[str]) -> list[list[str]]:
    """Everyone alone: ratios are between figures of different minutes."""
    names = [f"{kind}-{candidate}" for candidate in candidates for kind in ("served", "bare")]
    return [[name] for name in (*names, *peers)]
