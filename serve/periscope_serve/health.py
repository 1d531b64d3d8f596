"""Asking a running Triton over HTTP, one connection a question.

Triton cannot stop cleanly while an idle keep-alive connection is open, so nothing here holds one. Needs the standard
library alone: the images ask with it from outside the server.
"""

from __future__ import annotations

import http.client
import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

SECONDS = 5.0

_LOAD = re.compile(r'nv_inference_(pending_request_count|request_success|request_failure)\{model="([^"]*)".*\} (\S+)')


class Load(NamedTuple):
    """The load of a server: the number of requests that wait for a step, and of those of each model that have ended."""

    pending: int
    ended: Mapping[str, int]


def ready(host: str, port: int) -> bool:
    """Whether every model is ready."""
    return ask(host, port, "GET", "/v2/health/ready")[0] == 200


def listens(host: str, port: int) -> bool:
    """Whether anything answers there."""
    return ask(host, port, "GET", "/")[0] > 0


def models(host: str, port: int) -> list[str]:
    """The names of the models that are ready, in order."""
    status, body = ask(host, port, "POST", "/v2/repository/index")
    return sorted({entry["name"] for entry in json.loads(body) if entry.get("state") == "READY"}) if status else []


def load(host: str, port: int) -> Load | None:
    """A server's load by its metrics, None where they do not answer.

    A request to an ensemble is pending in none of its steps while one executes it.
    """
    status, body = ask(host, port, "GET", "/metrics")
    if status != 200:
        return None
    pending, ended = 0, Counter[str]()
    for name, model, value in _LOAD.findall(body.decode()):
        if name == "pending_request_count":
            pending += int(float(value))
        else:
            ended[model] += int(float(value))
    return Load(pending, ended)


def ask(
    host: str,
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    seconds: float = SECONDS,
) -> tuple[int, bytes]:
    """Return status and body of an answer; status 0 where there is none within so many seconds."""
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        connection.request(method, path, body or None, {"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
