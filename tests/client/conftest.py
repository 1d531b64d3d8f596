"""One real Triton with the stand-in repository for the whole session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from periscope_client import Retriever, _connection
from periscope_client._client import Protocol
from periscope_serve.server import Server

from .fake import FakeTransport
from .standin import write_repository

PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("standin")
    repository = write_repository(folder / "repository")
    with Server([repository], grpc_port=0, http_port=0, metrics_port=0, log=folder / "triton.log") as server:
        yield server


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


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> FakeTransport:
    """Every retriever made in the test talks to this, not to a server."""
    fake = FakeTransport()
    monkeypatch.setattr(_connection, "open_transport", lambda protocol, address: fake)
    return fake


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
