"""URLs, headers and files that say where a server is, and those that are refused before anything is sent."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from periscope_client._endpoint import Endpoint, parse_endpoint


@pytest.mark.parametrize(
    ("url", "protocol", "address", "path", "secure"),
    [
        ("localhost:8001", "grpc", "localhost:8001", "", False),
        ("[::1]:8001", "grpc", "[::1]:8001", "", False),
        ("grpc://host", "grpc", "host:8001", "", False),
        ("grpcs://host", "grpc", "host:443", "", True),
        ("grpcs://[2001:db8::1]:9/", "grpc", "[2001:db8::1]:9", "", True),
        ("http://host", "http", "host:80", "", False),
        ("http://host:8000/", "http", "host:8000", "", False),
        ("https://host/a/b/", "http", "host:443", "/a/b", True),
        ("HTTPS://Host:8443/Team", "http", "host:8443", "/Team", True),
        ("dns:///name:8001", "grpc", "dns:///name:8001", "", False),
        ("dns://8.8.8.8/name:8001", "grpc", "dns://8.8.8.8/name:8001", "", False),
        ("ipv4:10.0.0.1:8001,10.0.0.2:8001", "grpc", "ipv4:10.0.0.1:8001,10.0.0.2:8001", "", False),
    ],
)
def test_urls(url: str, protocol: str, address: str, path: str, secure: bool) -> None:
    endpoint = parse_endpoint(url)
    assert (endpoint.protocol, endpoint.address, endpoint.path) == (protocol, address, path)
    assert (endpoint.tls is not None) == secure
    assert endpoint.is_target == url.startswith(("dns:", "ipv4:"))


def test_protocol_and_name() -> None:
    """A bare address has the protocol that is asked for, and is called as it was given."""
    assert parse_endpoint("host:8000", protocol="http").protocol == "http"
    assert str(parse_endpoint("host:8000", protocol="http")) == "host:8000"
    assert str(parse_endpoint("grpcs://host")) == "grpcs://host:443"
    assert str(parse_endpoint("https://host/a")) == "https://host:443/a"
    assert parse_endpoint("https://host", protocol="http").protocol == "http"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "localhost"}, "give HOST:PORT"),
        ({"url": "::1:8001"}, "give HOST:PORT"),
        ({"url": "host:port"}, "give HOST:PORT"),
        ({"url": "host:8000/prefix"}, "give HOST:PORT"),
        ({"url": "host:99999"}, "give HOST:PORT"),
        ({"url": ":8001"}, "give HOST:PORT"),
        ({"url": ""}, "give HOST:PORT"),
        ({"url": "grpcs://"}, "give HOST:PORT"),
        ({"url": "ftp://host"}, "give HOST:PORT"),
        ({"url": "https://host/a?b=c"}, "give HOST:PORT"),
        ({"url": "https://host/a b"}, "give HOST:PORT"),
        ({"url": "https://[::1"}, "give HOST:PORT"),
        ({"url": "grpcs://host/prefix"}, "gRPC has no path"),
        ({"url": "https://me:pw@host"}, "url holds no user or password"),
        ({"url": "me:pw@host:8001"}, "url holds no user or password"),
        ({"url": "https://host", "protocol": "grpc"}, "protocol 'grpc' contradicts 'https://host'"),
        ({"url": "dns:///a:1", "protocol": "http"}, "protocol 'http' contradicts"),
        ({"url": "host:1", "ca": "ca.pem"}, "are for TLS, which 'host:1' does not ask for"),
        ({"url": "grpcs://host", "ca": "none.pem"}, "ca is a file in PEM; 'none.pem' cannot be read"),
        ({"url": "grpcs://host", "key": "none.pem"}, "give cert as well"),
        ({"token": "two words"}, "token is not one word"),
        ({"token": "line\n"}, "token is not one word"),
        ({"token": ""}, "token is not one word"),
        ({"token": "a", "headers": {"Authorization": "b"}}, "give one of them"),
        ({"headers": {"x y": "a"}}, "headers holds 'x y'"),
        ({"headers": {"Content-Length": "1"}}, "headers holds 'Content-Length'"),
        ({"headers": {"grpc-timeout": "1S"}}, "headers holds 'grpc-timeout'"),
        ({"headers": {"x": "hidden\r\nY: b"}}, "the header 'x' is not one line"),
        ({"headers": {"x": "hidden\N{SNOWMAN}"}}, "the header 'x' is not one line"),
        ({"headers": {"x": " hidden"}}, "the header 'x' is not one line"),
    ],
)
def test_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_endpoint(**{"url": "localhost:8001", **arguments})
    for secret in ("pw", "two words", "hidden"):
        assert secret not in str(caught.value)


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    notes = tmp_path / "notes.pem"
    notes.write_text("nothing")
    with pytest.raises(ValueError, match=r"ca is a file of certificates in PEM, which '.*notes.pem' is not"):
        parse_endpoint("grpcs://host", ca=notes)
    with pytest.raises(ValueError, match="cert and key are a certificate and its private key in PEM, not encrypted"):
        parse_endpoint("https://host", cert=notes)


def test_headers() -> None:
    endpoint = parse_endpoint("localhost:8001", token="t", headers={"X-Team": "a b"})
    assert endpoint.headers == {"authorization": "Bearer t", "x-team": "a b"}
    assert "Bearer" not in repr(endpoint)


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("host:8001", True),
        ("http://10.0.0.1/a", True),
        ("dns:///name:8001", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", True),
        ("grpcs://host", False),
        ("localhost:8001", False),
        ("http://127.0.0.2:1", False),
        ("[::1]:8001", False),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", False),
    ],
)
def test_a_token_in_the_clear(url: str, warned: bool) -> None:
    def endpoint() -> Endpoint:
        return parse_endpoint(url, headers={"Authorization": "Basic abc"})

    if warned:
        with pytest.warns(UserWarning, match="unencrypted.*write grpcs:// or https://"):
            endpoint()
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            endpoint()
