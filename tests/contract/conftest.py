"""Each system of the table on a running server."""

from __future__ import annotations

import pytest

from contract.served import Served, recipe_of
from contract.servers import Servers
from periscope_testing.system import System
from periscope_testing.systems import SYSTEMS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a check the systems that it is about; those that are excluded are skipped with their reason."""
    if "system" not in metafunc.fixturenames:
        return
    rows = []
    for system in SYSTEMS.values():
        outputs = recipe_of(system).outputs
        if "embedder" in metafunc.fixturenames and not (outputs.late or outputs.dense):
            continue
        if "reranker" in metafunc.fixturenames and not outputs.rerank:
            continue
        reason = system.excluded.get(metafunc.function.__name__)
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
