"""Ports to listen on: free ones on request, and a clear word when one is taken."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Mapping

from periscope_serve.errors import StartError
from periscope_serve.processes import commands, state

PATIENCE = 15.0
"""Seconds to wait for a Triton that is stopping because its `periscope serve` was killed."""


def resolve(host: str) -> str:
    """The IPv4 address of `host`: Triton's HTTP service never answers where it is given a name."""
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        raise StartError(
            f"--host {host} is no IPv4 address and no name of one: {error.strerror or error}. Use an address of this "
            "machine, 127.0.0.1 for local clients only or 0.0.0.0 for every interface"
        ) from None


def choose(host: str, wanted: Mapping[str, int]) -> dict[str, int]:
    """A port for every name in `wanted`, where 0 means any free one; a port in use raises `StartError`.

    A port of a Triton that its `periscope serve` has left behind is waited for: the kernel has told it to stop.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and any(port and _left_behind(name, port) for name, port in wanted.items()):
        time.sleep(0.1)
    with contextlib.ExitStack() as held:
        return {name: _bind(held, host, name, port) for name, port in wanted.items()}


def _bind(held: contextlib.ExitStack, host: str, name: str, port: int) -> int:
    # Held until every port is chosen, so that no two names get the same one.
    listener = held.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        raise StartError(
            f"the {name} port {port} on {host} cannot be used: {getattr(error, 'strerror', None) or error}. Stop what "
            f"listens there, or choose another with --{name}-port (0 picks a free one)"
        ) from None
    return int(listener.getsockname()[1])


def _left_behind(name: str, port: int) -> bool:
    """Whether a Triton that listens there has outlived the process that started it."""
    for pid, words in commands():
        if f"--{name}-port={port}" in words and words[0].endswith("tritonserver"):
            starter = re.search(r"shm-region-prefix-name=periscope_(\d+)_", " ".join(words))
            now = state(pid)
            if starter is not None and now is not None and not now.ended:
                return now.parent != int(starter[1])
    return False
