"""The ports of a server."""

from __future__ import annotations

import socket

import pytest

from periscope_serve import ports
from periscope_serve.errors import StartError


def test_free_ports_differ() -> None:
    chosen = ports.choose("127.0.0.1", {"grpc": 0, "http": 0, "metrics": 0})
    assert len(set(chosen.values())) == 3
    assert all(chosen.values())


def test_a_free_port_is_kept() -> None:
    port = ports.choose("127.0.0.1", {"http": 0})["http"]
    assert ports.choose("127.0.0.1", {"http": port}) == {"http": port}


def test_the_same_port_twice_is_refused() -> None:
    port = ports.choose("127.0.0.1", {"http": 0})["http"]
    with pytest.raises(StartError, match=f"the http port {port} on 127.0.0.1 cannot be used"):
        ports.choose("127.0.0.1", {"grpc": port, "http": port})


def test_a_port_that_is_none() -> None:
    with pytest.raises(StartError, match=r"the grpc port 99999 .* must be 0-65535"):
        ports.choose("127.0.0.1", {"grpc": 99999})


def test_names_become_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ports.resolve("localhost") == "127.0.0.1"
    assert ports.resolve("127.0.0.1") == "127.0.0.1"

    def unknown(name: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    with pytest.raises(StartError, match="--host nowhere is no IPv4 address and no name of one: Name or service"):
        ports.resolve("nowhere")
