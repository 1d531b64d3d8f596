"""Each system of the table on a running server."""

from __future__ import annotations

import pytest

from contract.needs import missing
from contract.served import Served
from contract.servers import Servers
from periscope_testing.system import System
from periscope_testing.systems import SYSTEMS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a check the systems that it is about; those that lack what it needs are skipped with the reason."""
    if "system" not in metafunc.fixturenames:
        return
    rows = []
    for system in SYSTEMS.values():
        if any(missing(system, name) for name in ("embedder", "reranker") if name in metafunc.fixturenames):
            continue
        reason = missing(system, metafunc.function.__name__)
        marks = [pytest.mark.skip(reason=reason)] if reason else []
        rows.append(pytest.param(system, marks=marks, id=f"{system.group}-{system.name}"))
    metafunc.parametrize("system", rows, scope="session")


@pytest.fixture
def served(system: System, servers: Servers) -> Served:
    return servers.of(system.name)


@pytest.fixture
def embedder(served: Served) -> Served:
    """A system with vectors."""
    return served


@pytest.fixture
def reranker(served: Served) -> Served:
    """A system that scores pairs."""
    return served
