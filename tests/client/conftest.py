"""One real Triton with the stand-in repository for the whole session."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from periscope_client import Retriever, _client, _timeout
from periscope_client._endpoint import Protocol
from periscope_serve import environment
from periscope_serve.errors import ServerDiedError
from periscope_serve.server import Server

from .fake import FakeTransport
from .restartable import Restartable
from .standin import write_repository

DEATHS = pytest.StashKey[list[str]]()

PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")


class Standin:
    """The stand-in repository, all of it or one retriever, and the server that serves it."""

    def __init__(self, folder: Path, only: str | None = None) -> None:
        self._folder = folder
        self._repository = write_repository(folder / "repository", only=only)
        self.deaths: list[str] = []
        self._server: Server | None = None

    def server(self) -> Server:
        """The server; a new one when there is none yet or it has died."""
        try:
            if self._server is not None:
                self._server.check()
        except ServerDiedError as error:
            self._server = None
            self.deaths.append(str(error))
        if self._server is None:
            log = self._folder / f"triton-{len(self.deaths) + 1}.log"
            self._server = Server([self._repository], grpc_port=0, http_port=0, metrics_port=0, log=log)
            self._server.start()
        return self._server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Standin]:
    if sys.version_info[:2] not in environment.VERSIONS:
        pytest.skip("the embedded Triton does not run under this Python")
    standin = Standin(tmp_path_factory.mktemp("standin"))
    request.config.stash[DEATHS] = standin.deaths
    yield standin
    standin.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say of what the session's server died: the tests after that had another, and may all have passed."""
    for death in config.stash.get(DEATHS, []):
        terminalreporter.section("the server of the session died")
        terminalreporter.write_line(death)


@pytest.fixture
def server(standin: Standin) -> Server:
    """Alive when the test begins: a crash fails the test that it happens in, and none of those that follow."""
    return standin.server()


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> Protocol:
    protocol: Protocol = request.param
    return protocol


@pytest.fixture
def url(server: Server, protocol: Protocol) -> str:
    return server.url(protocol)


@pytest.fixture
def retriever(url: str, protocol: Protocol) -> Iterator[Retriever]:
    with Retriever(url, "toy", protocol=protocol, timeout=30) as retriever:
        yield retriever


def other(name: str) -> Callable[..., Iterator[Retriever]]:
    """A fixture like `retriever`, of another retriever."""

    @pytest.fixture(name=name)
    def fixture(url: str, protocol: Protocol) -> Iterator[Retriever]:
        with Retriever(url, name, protocol=protocol, timeout=30) as retriever:
            yield retriever

    return fixture


rich, judge, slim = other("rich"), other("judge"), other("slim")


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def reached_by_commands(transport: FakeTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands take a URL: whatever it is, `transport` is there."""
    monkeypatch.setattr(_client, "open_transport", lambda endpoint: transport)


@pytest.fixture
def restartable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Restartable]:
    monkeypatch.setattr(_timeout, "LONGEST_DELAY", 0.5)
    restartable = Restartable(tmp_path)
    yield restartable
    if restartable.server is not None:
        restartable.kill()


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    """Three blank pages: 1, 2 and 3 inches wide, 1 inch high."""
    import pypdfium2

    document = pypdfium2.PdfDocument.new()
    for inches in (1, 2, 3):
        document.new_page(72 * inches, 72).close()
    path = tmp_path / "report.pdf"
    document.save(str(path))
    document.close()
    return path
