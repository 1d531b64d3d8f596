"""One system, everyone who can run it, in one run: contenders are started, measured in turns, and compared."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from periscope_perf.checkpoints import Checkpoints
from periscope_perf.flops import page_flops
from periscope_perf.interleaved import Say, Side, SideError, interleave
from periscope_perf.peers.catalogue import HERE, PEERS, VENVS
from periscope_perf.peers.host import Answered, Peer, PeerError, Vectors
from periscope_perf.quality import Closeness, closeness
from periscope_perf.server_side import Served
from periscope_perf.targets import Candidate, SystemPlan

# Of an answer. vLLM compiles its kernels when it loads a model for the first time.
PEER_TIMEOUT = 900.0

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


class Contender(Protocol):
    """Whoever embeds pages and queries: a server, a loop, a peer."""

    def pages(self, files: Sequence[Path]) -> Answered:
        """Embed image files. Raises `SideError`."""

    def queries(self, texts: Sequence[str]) -> Answered:
        """Embed queries. Raises `SideError`."""


@dataclass
class Findings:
    """Everything that was found. Figures, one a round, are named as `targets.yaml` says.

    `failures`: why someone has no figures, by name. `closeness` to the reference, by SYSTEM/CONTENDER; `ndcg5` of the
    demonstration's retriever, by candidate; `versions` of what a contender computes with.
    """

    figures: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    closeness: dict[str, Closeness] = field(default_factory=dict)
    ndcg5: dict[str, float] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    best: str = ""


@dataclass(frozen=True)
class Conditions:
    """What all contenders of a run share. `python` stands in for the peers' own environments where it is given."""

    threads: int
    rounds: int
    reference: str
    scratch: Path
    venvs: Path = VENVS
    python: Path | None = None


def compare(
    checkpoints: Checkpoints,
    plan: SystemPlan,
    repositories: Mapping[Candidate, Path],
    files: Sequence[Path],
    texts: Sequence[str],
    conditions: Conditions,
    findings: Findings,
    say: Say,
) -> None:
    """Measure everyone on one system and add what is found. Who fails is left out, and named in `failures`."""
    system = checkpoints.system
    with ExitStack() as running:
        contenders = _contenders(checkpoints, plan, repositories, conditions, findings, running, say)
        vectors: dict[str, dict[str, Vectors]] = {name: {} for name in contenders}
        sides: dict[str, Side] = {}
        for name, contender in contenders.items():
            sides[f"pages/{system}/{name}"] = _pages(contender, files, vectors[name])
            sides[f"query/{system}/{name}"] = _query(contender, texts, vectors[name])
        for name, contender in contenders.items():
            if isinstance(contender, Served):
                sides[f"query-indexing/{system}/{name}"] = _indexing(contender, files, texts)
        sides |= _alone(contenders, files, repositories, conditions, findings, running)
        rounds = interleave(sides, conditions.rounds, say)
        findings.figures |= rounds.figures
        findings.failures |= rounds.failures
        for name, contender in contenders.items():
            if isinstance(contender, Served):
                findings.figures[f"memory/{system}/{name}"] = [float(contender.memory())]
                findings.figures[f"weights/{system}/{name}"] = [float(contender.weights())]
    operations = page_flops(checkpoints.folders["published"], checkpoints.recipe, files[0].read_bytes()) / 1e9
    for name in contenders:
        if rates := findings.figures.get(f"pages/{system}/{name}"):
            findings.figures[f"gflops/{system}/{name}"] = [rate * operations for rate in rates]
    _compare_vectors(system, vectors, conditions.reference, findings)


def _contenders(
    checkpoints: Checkpoints,
    plan: SystemPlan,
    repositories: Mapping[Candidate, Path],
    conditions: Conditions,
    findings: Findings,
    running: ExitStack,
    say: Say,
) -> dict[str, Contender]:
    """Start the servers, the loops over the same graphs, and the peers."""
    system, found = checkpoints.system, dict[str, Contender]()

    def begin(name: str, start: Callable[[], Contender]) -> None:
        say(f"{system}: starting {name}")
        try:
            found[name] = start()
        except SideError as error:
            findings.failures[f"{system}/{name}"] = str(error)
            say(f"{system}: {name} failed: {error}")

    def peer(name: str, python: Path, script: Path, checkpoint: Path, precision: str) -> Peer:
        begun = running.enter_context(Peer(name, python, script, timeout=PEER_TIMEOUT, variables=OFFLINE))
        begun.load(checkpoint.resolve(), precision, conditions.threads)
        findings.versions[f"{system}/{name}"] = begun.versions
        return begun

    for candidate, repository in repositories.items():
        name = f"served-{candidate.name}"
        log = conditions.scratch / f"{system}-{candidate.name}.log"
        begin(name, lambda: running.enter_context(Served(name, repository, checkpoints.recipe, log)))  # noqa: B023
        if candidate.engine == "onnxruntime":
            name = f"bare-{candidate.name}"
            script, python = HERE / "bare_loop.py", Path(sys.executable)
            begin(name, lambda: peer(name, python, script, repository, candidate.precision))  # noqa: B023
    for name in plan.peers:
        spec = PEERS[name]
        python = conditions.python or spec.python(conditions.venvs)
        folder = checkpoints.folders[spec.checkpoint]
        begin(name, lambda: peer(name, python, spec.path, folder, spec.precision))  # noqa: B023
    return found


def _pages(contender: Contender, files: Sequence[Path], vectors: dict[str, Vectors]) -> Side:
    def measure() -> float:
        answered = contender.pages(files)
        vectors["pages"] = answered.vectors
        return len(files) / answered.seconds

    return measure


def _query(contender: Contender, texts: Sequence[str], vectors: dict[str, Vectors]) -> Side:
    def measure() -> float:
        answers = [contender.queries([text]) for text in texts]
        vectors["queries"] = [answered.vectors[0] for answered in answers]
        return statistics.median(answered.seconds for answered in answers)

    return measure


def _indexing(served: Served, files: Sequence[Path], texts: Sequence[str]) -> Side:
    return lambda: served.query_while_indexing(files, texts)


def _alone(
    contenders: Mapping[str, Contender],
    files: Sequence[Path],
    repositories: Mapping[Candidate, Path],
    conditions: Conditions,
    findings: Findings,
    running: ExitStack,
) -> dict[str, Side]:
    """What needs no model: preparation in one and two threads by whoever can, and matrix products."""
    if any(name.startswith("prepare/") for name in findings.figures):
        return {}  # another system's run has them
    sides: dict[str, Side] = {}
    bare = next((peer for name, peer in contenders.items() if name.startswith("bare-")), None)
    for who, peer in (("periscope", bare), ("processor", contenders.get(conditions.reference))):
        if isinstance(peer, Peer):
            for threads in (1, 2):
                sides[f"prepare/{threads}/{who}"] = _prepare(peer, files, threads)
    # In a process of its own: what it imports computes with threads of its own.
    try:
        peak = running.enter_context(
            Peer("peak", Path(sys.executable), HERE / "peak.py", timeout=PEER_TIMEOUT, variables=OFFLINE)
        )
        peak.load(Path(), "fp32", conditions.threads)
    except PeerError as error:
        findings.failures["peak"] = str(error)
        return sides
    findings.versions["peak"] = peak.versions
    for precision in dict.fromkeys(candidate.precision for candidate in repositories):
        sides[f"peak/{precision}"] = _peak(peak, precision)
    return sides


def _prepare(peer: Peer, files: Sequence[Path], threads: int) -> Side:
    # Enough of them that two threads end together.
    many = [*files] * 4
    return lambda: len(many) / peer.prepare(many, threads)


def _peak(peer: Peer, precision: str) -> Side:
    return lambda: max(peer.peak(precision).values())


def _compare_vectors(
    system: str, vectors: Mapping[str, Mapping[str, Vectors]], reference: str, findings: Findings
) -> None:
    if len(vectors.get(reference, {})) < 2:
        findings.failures[f"{system}/quality"] = f"nothing to compare with: {reference} made no vectors"
        return
    truth = vectors[reference]
    for name, made in vectors.items():
        if len(made) == 2 and (name not in PEERS or system in PEERS[name].comparable):
            findings.closeness[f"{system}/{name}"] = closeness(
                made["pages"], made["queries"], truth["pages"], truth["queries"]
            )
