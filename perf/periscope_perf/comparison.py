"""One system, everyone who can run it, in one run: contenders are started, measured in turns, and compared."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from periscope_perf import groups
from periscope_perf.contenders import OFFLINE, PEER_TIMEOUT, Conditions, Contender, Contenders
from periscope_perf.findings import Findings, precision_of
from periscope_perf.interleaved import Say, Side, interleave
from periscope_perf.machine import cpu_seconds, memory_in_use
from periscope_perf.peers.catalogue import HERE, PEERS
from periscope_perf.peers.host import Peer, PeerError, Vectors
from periscope_perf.quality import closeness
from periscope_perf.server_side import Served

# Seconds for which the idle contenders are looked at.
IDLE_SECONDS = 1.0


class Comparison:
    """One system. Figures of a contender are those of the last group that it was in."""

    def __init__(
        self,
        system: str,
        contenders: Contenders,
        files: Sequence[Path],
        texts: Sequence[str],
        operations: float,
        conditions: Conditions,
        findings: Findings,
        say: Say,
    ) -> None:
        """Pages as image files, queries, and the floating point operations of a page."""
        self._system, self._contenders, self._conditions = system, contenders, conditions
        self._files, self._texts, self._operations = files, texts, operations
        self._findings, self._say = findings, say
        self._vectors: dict[str, dict[str, Vectors]] = {}

    def run(self, best: Callable[[], str]) -> None:
        """Measure everyone. `best` names the best candidate, and is asked when all candidates have been measured."""
        names = [candidate.name for candidate in self._contenders.candidates]
        if self._conditions.alone:
            for group in groups.one_by_one(names, self._contenders.peers):
                self._measure(group, while_indexing=True)
        elif len(names) > 1:
            self._measure([f"served-{name}" for name in names], while_indexing=False)
        chosen = best()
        if not self._conditions.alone:
            for group in groups.beside_peers(chosen, names, self._contenders.peers):
                self._measure(group, while_indexing=f"served-{chosen}" in group)
        self._compare_vectors()

    def _measure(self, names: Sequence[str], while_indexing: bool) -> None:
        """Start a group, measure it in turns, end it."""
        self._findings.forget(self._system, names)
        with ExitStack() as running:
            contenders = self._contenders.start(names, running)
            served = {name: one for name, one in contenders.items() if isinstance(one, Served)}
            sides: dict[str, Side] = {}
            for name, contender in contenders.items():
                self._vectors[name] = {}
                sides[f"pages/{self._system}/{name}"] = self._pages(contender, self._vectors[name])
                sides[f"query/{self._system}/{name}"] = self._queries(contender, self._vectors[name])
            if while_indexing:
                for name, server in served.items():
                    sides[f"query-indexing/{self._system}/{name}"] = self._indexing(server)
            sides |= self._peaks(served, running)
            self._say(f"{self._system}: {len(contenders)} contenders are ready. {in_use()}")
            self._findings.add(interleave(sides, self._conditions.rounds, self._say))
            for name, server in served.items():
                self._findings.figures[f"memory/{self._system}/{name}"] = [float(server.memory())]
                self._findings.figures[f"weights/{self._system}/{name}"] = [float(server.weights())]
        self._count_operations(contenders)

    def _pages(self, contender: Contender, vectors: dict[str, Vectors]) -> Side:
        def measure() -> float:
            answered = contender.pages(self._files)
            vectors["pages"] = answered.vectors
            return len(self._files) / answered.seconds

        return measure

    def _queries(self, contender: Contender, vectors: dict[str, Vectors]) -> Side:
        def measure() -> float:
            answers = [contender.queries([text]) for text in self._texts]
            vectors["queries"] = [answered.vectors[0] for answered in answers]
            return statistics.median(answered.seconds for answered in answers)

        return measure

    def _indexing(self, server: Served) -> Side:
        return lambda: server.query_while_indexing(self._files, self._texts)

    def _peaks(self, served: Iterable[str], running: ExitStack) -> dict[str, Side]:
        """Matrix products in the precisions of those who are served."""
        precisions = dict.fromkeys(precision_of(name) for name in served)
        if not precisions:
            return {}
        # In a process of its own: what it imports computes with threads of its own.
        try:
            peak = running.enter_context(
                Peer("peak", Path(sys.executable), HERE / "peak.py", timeout=PEER_TIMEOUT, variables=OFFLINE)
            )
            peak.load(Path(), "fp32", self._conditions.threads)
        except PeerError as error:
            self._findings.failures[f"peak/{self._system}"] = str(error)
            return {}
        sides: dict[str, Side] = {}
        for precision in precisions:
            self._findings.versions[f"{self._system}/{precision}"] = peak.versions
            sides[f"peak/{self._system}/{precision}"] = _peak(peak, precision)
        return sides

    def _count_operations(self, names: Iterable[str]) -> None:
        """Count the rates in operations a second, and for those who are served, as a share of the peak."""
        figures = self._findings.figures
        for name in names:
            rates = figures.get(f"pages/{self._system}/{name}")
            if not rates:
                continue
            gflops = figures[f"gflops/{self._system}/{name}"] = [rate * self._operations / 1e9 for rate in rates]
            peaks = figures.get(f"peak/{self._system}/{precision_of(name)}", ())
            if name.startswith("served-") and len(peaks) == len(gflops):
                shares = [one / other for one, other in zip(gflops, peaks, strict=True)]
                figures[f"share-of-peak/{self._system}/{name}"] = shares

    def _compare_vectors(self) -> None:
        """Compare everyone's vectors with the reference's."""
        reference, vectors = self._conditions.reference, self._vectors
        if len(vectors.get(reference, {})) < 2:
            reason = f"nothing to compare with: {reference} made no vectors"
            self._findings.failures[f"{self._system}/quality"] = reason
            return
        truth = vectors[reference]
        for name, made in vectors.items():
            if len(made) == 2 and (name not in PEERS or self._system in PEERS[name].comparable):
                self._findings.closeness[f"{self._system}/{name}"] = closeness(
                    made["pages"], made["queries"], truth["pages"], truth["queries"]
                )


def in_use() -> str:
    """Memory of the machine that is in use, and what those take who are to be idle until it is their turn."""
    before = cpu_seconds(os.getpid())
    time.sleep(IDLE_SECONDS)
    busy = (cpu_seconds(os.getpid()) - before) / IDLE_SECONDS
    used, total = memory_in_use()
    return f"Memory in use: {used / 1e9:.1f} of {total / 1e9:.1f} GB. Processors that they take while idle: {busy:.2f}"


def _peak(peer: Peer, precision: str) -> Side:
    return lambda: max(peer.peak(precision).values())
