"""Fixtures of the tests of every folder."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from contract.servers import Servers
    from traced import TracedOnce


def pytest_configure(config: pytest.Config) -> None:
    """A job in the background inherits SIGINT as ignored, and so would what tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The systems of the table, each on a running server when a test asks for it."""
    # Here, because most folders of tests need neither the export nor a server.
    from contract.servers import Servers

    servers = Servers(tmp_path_factory)
    yield servers
    servers.close()


@pytest.fixture(scope="session")
def _traced(tmp_path_factory: pytest.TempPathFactory) -> TracedOnce:
    from traced import TracedOnce

    return TracedOnce(tmp_path_factory.mktemp("traced"))


@pytest.fixture(scope="module")
def traced_once(_traced: TracedOnce) -> Iterator[None]:
    """Exports of a module trace graphs that differ in weights alone once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("periscope_export.exporter.export_graph", _traced)
        yield
