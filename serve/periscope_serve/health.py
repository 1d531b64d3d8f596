"""Asking a running Triton over HTTP, one connection a question.

Triton cannot stop cleanly while an idle keep-alive connection is open, so nothing here holds one.
"""

from __future__ import annotations

import http.client
import json

SECONDS = 5.0


def ready(host: str, port: int) -> bool:
    """Whether every model is ready."""
    return _ask(host, port, "GET", "/v2/health/ready")[0] == 200


def listens(host: str, port: int) -> bool:
    """Whether anything answers there."""
    return _ask(host, port, "GET", "/")[0] > 0


def models(host: str, port: int) -> list[str]:
    """The names of the models that are ready, in order."""
    status, body = _ask(host, port, "POST", "/v2/repository/index")
    return sorted({entry["name"] for entry in json.loads(body) if entry.get("state") == "READY"}) if status else []


def _ask(host: str, port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request(method, path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
