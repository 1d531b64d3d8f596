"""Each system of the table on a running server, one server for those of a group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from tritonclient.grpc import InferenceServerClient

from contract.served import Served
from periscope_client import Retriever
from periscope_export.exporter import Request, export
from periscope_serve.server import Server
from periscope_testing.system import System
from periscope_testing.systems import SYSTEMS


class Servers:
    """The systems of one group at a time, exported and served."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._running = ExitStack()
        self._group = ""
        self._served: dict[str, Served] = {}

    def of(self, system: System) -> Served:
        """Return a system, after its group took the place of the group before."""
        if system.group != self._group:
            self.close()
            self._group = system.group
            self._start([one for one in SYSTEMS.values() if one.group == system.group])
        return self._served[system.name]

    def close(self) -> None:
        """End the server."""
        self._running.close()
        self._running = ExitStack()

    def _start(self, systems: list[System]) -> None:
        folder = self._factory.mktemp(self._group)
        made = {system.name: system.make(folder / f"{system.name}-checkpoint") for system in systems}
        exported = {
            system.name: export(
                Request(str(made[system.name]), system.recipe, folder / system.name, name=system.name), lambda _: None
            )
            for system in systems
        }
        server = Server(list(exported.values()), grpc_port=0, http_port=0, metrics_port=0, log=folder / "triton.log")
        url = self._running.enter_context(server).grpc_url
        triton = self._running.enter_context(InferenceServerClient(url))
        self._served = {
            system.name: Served(
                system,
                made[system.name],
                exported[system.name],
                self._running.enter_context(Retriever(url, system.name)),
                triton,
            )
            for system in systems
        }


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory)
    yield servers
    servers.close()


@pytest.fixture(scope="session", params=SYSTEMS.values(), ids=lambda system: f"{system.group}-{system.name}")
def system(request: pytest.FixtureRequest) -> System:
    found: System = request.param
    return found


@pytest.fixture
def served(system: System, servers: Servers, request: pytest.FixtureRequest) -> Served:
    """A system that takes part in a check."""
    if reason := system.excluded.get(request.function.__name__):
        pytest.skip(reason)
    return servers.of(system)


@pytest.fixture
def embedder(served: Served) -> Served:
    """A system with vectors."""
    if not served.outputs:
        pytest.skip("it has no vectors")
    return served


@pytest.fixture
def reranker(served: Served) -> Served:
    """A system that scores pairs."""
    if served.recipe.outputs.rerank is None:
        pytest.skip("it scores no pairs")
    return served
