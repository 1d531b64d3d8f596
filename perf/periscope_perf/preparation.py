"""Preparation of images, from bytes to patches, ours beside the published processor: no model, one thread or two."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from periscope_perf.contenders import OFFLINE, PEER_TIMEOUT, Conditions
from periscope_perf.findings import Findings
from periscope_perf.interleaved import Say, Side, SideError, interleave
from periscope_perf.peers.catalogue import HERE, PEERS
from periscope_perf.peers.host import Peer

THREADS = (1, 2)
# Pages are prepared so many times over: enough of them that two threads end together.
REPEATS = 16
# A round is over in two seconds, and rounds differ by half: so many of them for one of the models'.
ROUNDS = 5


def measure_preparation(
    repository: Path, checkpoint: Path, files: Sequence[Path], conditions: Conditions, findings: Findings, say: Say
) -> None:
    """Add `prepare/THREADS/WHO`: pages a second of "periscope" and of the reference's "processor"."""
    spec = PEERS[conditions.reference]
    sources = {
        "periscope": (Path(sys.executable), HERE / "bare_loop.py", repository),
        "processor": (conditions.python or spec.python(conditions.venvs), spec.path, checkpoint),
    }
    sides: dict[str, Side] = {}
    with ExitStack() as running:
        for who, (python, script, source) in sources.items():
            try:
                peer = running.enter_context(Peer(who, python, script, timeout=PEER_TIMEOUT, variables=OFFLINE))
            except SideError as error:
                findings.failures[f"prepare/{who}"] = str(error)
                continue
            for threads in THREADS:
                sides[f"prepare/{threads}/{who}"] = _side(peer, source.resolve(), files, threads)
        findings.add(interleave(sides, ROUNDS * conditions.rounds, say))


def _side(peer: Peer, source: Path, files: Sequence[Path], threads: int) -> Side:
    many = [*files] * REPEATS
    return lambda: len(many) / peer.prepare(source, many, threads)
