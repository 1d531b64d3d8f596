"""The place of a server and the way to it: protocol, TLS, path and headers, read from a URL and what comes with it."""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import SplitResult, urlsplit

Protocol: TypeAlias = Literal["grpc", "http"]
PathLike: TypeAlias = str | os.PathLike[str]


class _Scheme(NamedTuple):
    protocol: Protocol
    tls: bool
    port: int


_SCHEMES = {
    "grpc": _Scheme("grpc", False, 8001),
    "grpcs": _Scheme("grpc", True, 443),
    "http": _Scheme("http", False, 80),
    "https": _Scheme("http", True, 443),
}

# Names that gRPC itself resolves, to several addresses maybe.
_TARGET = re.compile(r"(?:dns|ipv4|ipv6):.+")

_FORMS = (
    "give HOST:PORT, or a URL such as grpc://localhost:8001, grpcs://host:443, https://host/prefix or dns:///name:8001"
)

_SAFE = re.compile(r"[!-~]+")
_HEADER_NAME = re.compile(r"[a-z0-9_.-]+")
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
# Headers that say how a body is to be read are the protocol's to send.
_RESERVED = re.compile(
    r"grpc-.*|te|host|connection|content-(?:type|length|encoding)|transfer-encoding|inference-header-content-length"
)


@dataclass(frozen=True)
class Tls:
    """The authorities to trust and one's own identity, as files in PEM.

    ca: of the authorities to trust; None for the usual ones.
    cert: of the client itself, if it has one.
    key: the private key of `cert`; None when it is in the same file.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    def context(self) -> ssl.SSLContext:
        """As Python wants it. Raises: ValueError naming the file that is not what it should be."""
        for name, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key)):
            if path is not None and not os.access(path, os.R_OK):
                raise ValueError(f"{name} is a file in PEM; {path!r} cannot be read")
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError:
            raise ValueError(f"ca is a file of certificates in PEM, which {self.ca!r} is not") from None
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key, password="")
            except ssl.SSLError as error:
                raise ValueError(
                    f"cert and key are a certificate and its private key in PEM, not encrypted, which {self.cert!r} "
                    f"and {self.key or self.cert!r} are not ({error.reason or 'unreadable'})"
                ) from None
        return context


@dataclass(frozen=True)
class Endpoint:
    """A server as the client calls it.

    protocol: "grpc" or "http".
    address: "host:port", or a name that gRPC resolves (dns:///name:port).
    path: what a gateway has before Triton's own paths, "/prefix" or "".
    tls: None for a connection in the clear.
    headers: sent with every request, names in lower case, secrets among them.
    """

    protocol: Protocol
    address: str
    path: str = ""
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_target(self) -> bool:
        """Whether the address is a name that gRPC resolves, to several servers maybe."""
        return _TARGET.fullmatch(self.address) is not None

    def __str__(self) -> str:
        """As messages call it."""
        if self.tls is None and not self.path:
            return self.address
        return f"{self.protocol}{'s' if self.tls else ''}://{self.address}{self.path}"


def parse_endpoint(
    url: str,
    *,
    protocol: Protocol | None = None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
    ca: PathLike | None = None,
    cert: PathLike | None = None,
    key: PathLike | None = None,
) -> Endpoint:
    """The endpoint of `AsyncRetriever`'s arguments, checked.

    Warns when a token would travel in the clear to another machine.

    >>> parse_endpoint("https://models.example/team-a/")
    Endpoint(protocol='http', address='models.example:443', path='/team-a', tls=Tls(ca=None, cert=None, key=None))
    >>> parse_endpoint("[::1]:8001").address, parse_endpoint("dns:///triton:8001").address
    ('[::1]:8001', 'dns:///triton:8001')

    Raises: ValueError saying what is wrong with which argument.
    """
    if protocol not in (None, "grpc", "http"):
        raise ValueError(f"protocol is 'grpc' or 'http', not {protocol!r}")
    scheme, address, path = _split(url, protocol)
    if protocol not in (None, scheme.protocol):
        raise ValueError(f"protocol {protocol!r} contradicts {url!r}: leave one of them out")
    tls = None
    if scheme.tls:
        tls = Tls(*(None if file is None else os.fspath(file) for file in (ca, cert, key)))
        if key is not None and cert is None:
            raise ValueError("key is the private key of cert: give cert as well")
        tls.context()
    elif any(file is not None for file in (ca, cert, key)):
        raise ValueError(f"ca, cert and key are for TLS, which {url!r} does not ask for: write grpcs:// or https://")
    sent = _headers(headers or {}, token)
    endpoint = Endpoint(scheme.protocol, address, path, tls, sent)
    if tls is None and "authorization" in sent and not _stays_here(address):
        warnings.warn(
            f"a token is sent to {endpoint} unencrypted, and whoever sees it can use it: write grpcs:// or https://",
            stacklevel=2,
        )
    return endpoint


def _split(url: str, protocol: Protocol | None) -> tuple[_Scheme, str, str]:
    """Scheme, address and path of a URL."""
    wrong = ValueError(f"url is {url!r}: {_FORMS}")
    if "@" in url:
        # Without the URL, which may hold a secret.
        raise ValueError("url holds no user or password: give a token, or headers={'authorization': 'Basic ...'}")
    if _TARGET.fullmatch(url):
        return _SCHEMES["grpc"], url, ""
    plain = "://" not in url
    try:
        parts = urlsplit(f"{protocol or 'grpc'}://{url}" if plain else url)
        port = parts.port
    except ValueError:
        raise wrong from None
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname or parts.query or parts.fragment or not _SAFE.fullmatch(url):
        raise wrong
    path = parts.path.rstrip("/")
    if plain and (port is None or parts.path):
        raise wrong
    if path and scheme.protocol == "grpc":
        raise ValueError(f"url is {url!r}: gRPC has no path before its own, only HTTP does. {_FORMS}")
    return scheme, f"{_host(parts)}:{scheme.port if port is None else port}", path


def _host(parts: SplitResult) -> str:
    assert parts.hostname is not None
    return f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname


def _headers(headers: Mapping[str, str], token: str | None) -> dict[str, str]:
    """Headers with lower-case names, the token among them. No message holds a value: it may be a secret."""
    sent = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name.lower()) or _RESERVED.fullmatch(name.lower()):
            raise ValueError(f"headers holds {name!r}, which is no name of a header that may be set")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the header {name!r} is not one line of ASCII without spaces around it")
        sent[name.lower()] = value
    if token is not None:
        if "authorization" in sent:
            raise ValueError("token is the header 'authorization': give one of them")
        if not isinstance(token, str) or not _SAFE.fullmatch(token):
            raise ValueError("token is not one word of ASCII (without 'Bearer', which is added)")
        sent["authorization"] = f"Bearer {token}"
    return sent


def _stays_here(address: str) -> bool:
    """Whether what is sent there stays on this machine."""
    listed = re.sub("^(?:dns|ipv4|ipv6):/*", "", address)
    hosts = {one.rpartition(":")[0].strip("[]") for one in listed.split(",")}
    return all(host == "localhost" or _is_loopback(host) for host in hosts)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
