"""Contenders that can be started for a system, by name: servers, loops over the same graphs, peers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from periscope_perf.checkpoints import Checkpoints
from periscope_perf.findings import Findings
from periscope_perf.interleaved import Say, SideError
from periscope_perf.peers.catalogue import HERE, PEERS, VENVS
from periscope_perf.peers.graphs import ENGINES
from periscope_perf.peers.host import Answered, Peer
from periscope_perf.server_side import Served
from periscope_perf.targets import Candidate, SystemPlan

# Of an answer. vLLM compiles its kernels when it loads a model for the first time.
PEER_TIMEOUT = 900.0

OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

Repository = Callable[[], Path]


class Contender(Protocol):
    """One that embeds pages and queries: a server, a loop, a peer."""

    def pages(self, files: Sequence[Path]) -> Answered:
        """Embed image files. Raises `SideError`."""

    def queries(self, texts: Sequence[str]) -> Answered:
        """Embed queries. Raises `SideError`."""


@dataclass(frozen=True)
class Conditions:
    """Conditions that all contenders of a run share.

    threads: of each contender.
    rounds: how often each is measured.
    reference: the peer whose vectors all others' are compared with.
    scratch: the folder of repositories and logs.
    alone: one contender is in memory at a time, for models that do not fit beside each other.
    venvs: the folder of the peers' environments.
    python: stands in for these environments where it is given.
    """

    threads: int
    rounds: int
    reference: str
    scratch: Path
    alone: bool = False
    venvs: Path = VENVS
    python: Path | None = None


class Contenders:
    """The contenders of one system. `repositories` export what they are asked for, and raise `SideError`."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        plan: SystemPlan,
        repositories: Mapping[Candidate, Repository],
        conditions: Conditions,
        findings: Findings,
        say: Say,
    ) -> None:
        self.candidates = tuple(repositories)
        self.peers = plan.peers
        self._system, self._conditions, self._findings, self._say = checkpoints.system, conditions, findings, say
        self._starts: dict[str, Callable[[str, ExitStack], Contender]] = {}
        self._folders: dict[str, Repository] = {}
        for candidate, repository in repositories.items():
            self._folders |= dict.fromkeys((f"served-{candidate.name}", f"bare-{candidate.name}"), repository)
            self._starts[f"served-{candidate.name}"] = partial(self._served, repository, checkpoints.recipe)
            if candidate.engine in ENGINES:
                loop = partial(self._peer, Path(sys.executable), HERE / "bare_loop.py", repository, candidate.precision)
                self._starts[f"bare-{candidate.name}"] = loop
        for name in plan.peers:
            spec = PEERS[name]
            python = conditions.python or spec.python(conditions.venvs)
            checkpoint = self._folders[name] = partial(checkpoints.folder, spec.checkpoint)
            self._starts[name] = partial(self._peer, python, spec.path, checkpoint, spec.precision)

    def start(self, names: Iterable[str], running: ExitStack) -> dict[str, Contender]:
        """Start those of the names that exist. Who fails is left out, and named in the findings."""
        wanted = [name for name in names if name in self._starts]
        for name in wanted:
            # All of them at first: an export needs the memory that models in other processes would take.
            with suppress(SideError):
                self._folders[name]()
        found: dict[str, Contender] = {}
        for name in wanted:
            self._say(f"{self._system}: starting {name}")
            try:
                found[name] = self._starts[name](name, running)
            except SideError as error:
                self._findings.failures[f"{self._system}/{name}"] = str(error)
                self._say(f"{self._system}: {name} failed: {error}")
        return found

    def _served(self, repository: Repository, recipe: str, name: str, running: ExitStack) -> Contender:
        log = self._conditions.scratch / f"{self._system}-{name}.log"
        return running.enter_context(Served(name, repository(), recipe, log))

    def _peer(
        self, python: Path, script: Path, checkpoint: Repository, precision: str, name: str, running: ExitStack
    ) -> Contender:
        folder = checkpoint().resolve()
        peer = running.enter_context(Peer(name, python, script, timeout=PEER_TIMEOUT, variables=OFFLINE))
        peer.load(folder, precision, self._conditions.threads)
        self._findings.versions[f"{self._system}/{name}"] = peer.versions
        return peer
