"""One server for all systems: each from a random checkpoint in its published layout, exported in fp32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported, exported
from periscope_serve.server import Server
from systems.checkpoints import SYSTEMS


@pytest.fixture(scope="session")
def systems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    """The exported systems, by the name that each is served under."""
    found = {}
    for name, (recipe, make) in SYSTEMS.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = exported(folder, name, make(folder / "checkpoint"), recipe=recipe)
    return found


@pytest.fixture(scope="session")
def server(systems: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "triton.log"
    repositories = [system.repository for system in systems.values()]
    with Server(repositories, grpc_port=0, http_port=0, metrics_port=0, log=log) as running:
        yield running


@pytest.fixture(scope="session")
def triton(server: Server) -> Iterator[InferenceServerClient]:
    """The bare client, for what the project's own client does not do: rows joined by hand, single steps."""
    with InferenceServerClient(server.grpc_url) as connected:
        yield connected
