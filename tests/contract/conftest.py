"""Each system of the table on a running server."""

from __future__ import annotations

import pytest

from contract.served import Served
from contract.servers import Servers
from periscope_testing.system import System
from periscope_testing.systems import SYSTEMS


@pytest.fixture(scope="session", params=SYSTEMS.values(), ids=lambda system: f"{system.group}-{system.name}")
def system(request: pytest.FixtureRequest) -> System:
    found: System = request.param
    return found


@pytest.fixture
def served(system: System, servers: Servers, request: pytest.FixtureRequest) -> Served:
    """A system that takes part in a check."""
    if reason := system.excluded.get(request.function.__name__):
        pytest.skip(reason)
    return servers.of(system.name)


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
