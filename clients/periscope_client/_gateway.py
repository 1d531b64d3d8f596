"""Obstacles between a client and Triton: nothing at the address, TLS that fails, a gateway that answers itself."""

from __future__ import annotations

import re

from periscope_client._endpoint import Endpoint
from periscope_client._errors import (
    AccessDenied,
    InvalidInput,
    RequestError,
    ServerUnavailable,
    UnexpectedAnswer,
)

# An end in the middle of nothing, as a server that speaks TLS ends what begins without it.
_CUT_OFF = re.compile("socket closed|reset|disconnected", re.IGNORECASE)

_PLAIN = re.compile("WRONG_VERSION_NUMBER|missing selected ALPN|record layer failure", re.IGNORECASE)
_CLIENT_CERTIFICATE = re.compile("certificate.required|alert.bad.certificate|alert.unknown.ca", re.IGNORECASE)
_HOSTNAME = re.compile("hostname (?:mismatch|verification)|ip address mismatch", re.IGNORECASE)
_UNTRUSTED = re.compile(r"CERTIFICATE_VERIFY_FAILED(?:\] certificate verify failed)?: (?P<why>[^:(]*)")


def unreachable(endpoint: Endpoint, detail: str) -> ServerUnavailable:
    """Nothing speaks the protocol at the address."""
    protocol = endpoint.protocol
    if endpoint.tls is not None:
        remedy = "Is it running, and does it speak TLS there?"
        if endpoint.tls.cert is None and _CUT_OFF.search(detail):
            remedy += " Does it ask for a certificate (cert, key)?"
    else:
        usual = {"grpc": 8001, "http": 8000}[protocol]
        remedy = f"Is it running, and is this its {protocol} port (usually {usual})?"
        if _CUT_OFF.search(detail):
            remedy += f" If it speaks TLS, write {protocol}s://."
    return ServerUnavailable(f"no server answers at {endpoint} over {protocol} ({detail}). {remedy}")


def tls_error(endpoint: Endpoint, detail: str) -> RequestError | None:
    """The reason why TLS cannot come about, if `detail` of an error is certain of it; trying again would not help."""
    if endpoint.tls is None:
        return None
    if _CLIENT_CERTIFICATE.search(detail):
        return AccessDenied(f"{endpoint} asks for a certificate of the client's. Give one that it accepts (cert, key).")
    if _HOSTNAME.search(detail):
        return UnexpectedAnswer(
            f"the certificate of {endpoint} is for another name. Call the server by the name in its certificate."
        )
    if found := _UNTRUSTED.search(detail):
        why, trusted = found["why"].strip(), endpoint.tls.ca or "the usual authorities"
        remedy = "Give the certificate of the authority that signed it (ca)"
        if "expired" in why or "not yet valid" in why:
            remedy = "Have it renewed there, or set this machine's clock"
        return UnexpectedAnswer(
            f"the certificate of {endpoint} is not trusted ({why}; trusted is {trusted}). {remedy}."
        )
    if _PLAIN.search(detail):
        plain = str(endpoint).replace("s://", "://", 1)
        return UnexpectedAnswer(
            f"what answers at {endpoint} does not speak {endpoint.protocol} over TLS. Is this the right port? "
            f"Without TLS it is {plain}."
        )
    return None


def gateway_error(endpoint: Endpoint, status: int) -> RequestError | None:
    """The meaning of a gateway's HTTP status; None where it has none in particular."""
    said = f"the gateway at {endpoint} answers with status {status}"
    if status in (401, 403):
        given = "what it was given" if endpoint.headers else "requests without a token"
        return AccessDenied(f"{said}: it refuses {given}. Give a token that it accepts (token, headers).")
    if status == 407:
        return AccessDenied(f"a proxy before {endpoint} asks who is calling (status 407). Go round it, or let it pass.")
    if status == 413:
        return InvalidInput(
            f"the gateway at {endpoint} takes no request as large as this (status 413). Send less at once, or raise "
            "its limit."
        )
    if status == 429:
        return ServerUnavailable(f"{said}: too many requests. Keep fewer in flight (concurrency)")
    if status in (408, 502, 503, 504):
        return ServerUnavailable(f"{said}: it does not reach the server behind it")
    return None
