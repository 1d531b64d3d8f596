"""The systems of the table on running servers: one server for those of a group, one group at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from contract.served import Served
from periscope_client import Retriever
from periscope_export.exporter import Request, export
from periscope_serve.server import Server
from periscope_testing.systems import SYSTEMS

# By a system's name, its checkpoint and what was exported from it.
Exported = Mapping[str, tuple[Path, Path]]


class Servers:
    """Systems are exported once, when a test first asks for one of their group."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._running = ExitStack()
        self._group = ""
        self._served: dict[str, Served] = {}
        self._exported: dict[str, Exported] = {}

    def of(self, name: str) -> Served:
        """Return a system by its name, after its group took the place of the group before."""
        group = SYSTEMS[name].group
        if group != self._group:
            self.close()
            self._exported.setdefault(group, self._export(group))
            self._start(group)
        return self._served[name]

    def close(self) -> None:
        """End the server."""
        self._running.close()
        self._running, self._group, self._served = ExitStack(), "", {}

    def _export(self, group: str) -> Exported:
        if group in self._exported:
            return self._exported[group]
        folder, made = self._factory.mktemp(group), {}
        for name, system in SYSTEMS.items():
            if system.group == group:
                checkpoint = system.make(folder / f"{name}-checkpoint")
                request = Request(str(checkpoint), system.recipe, folder / name, name=name, settings=system.settings)
                made[name] = checkpoint, export(request, lambda _: None)
        return made

    def _start(self, group: str) -> None:
        exported, log = self._exported[group], self._factory.mktemp("server") / "triton.log"
        repositories = [repository for _, repository in exported.values()]
        server = Server(repositories, grpc_port=0, http_port=0, metrics_port=0, log=log)
        url = self._running.enter_context(server).grpc_url
        triton = self._running.enter_context(InferenceServerClient(url))
        for name, (checkpoint, repository) in exported.items():
            retriever = self._running.enter_context(Retriever(url, name))
            self._served[name] = Served(SYSTEMS[name], checkpoint, repository, retriever, triton, server)
        self._group = group
