"""Saying that a server is about to stop, to whoever asks for its health on the same machine.

Triton itself says that it is ready until the moment in which it stops: only with the API that loads models, which runs
any code that it is sent, could it be told otherwise. So the word is a name among the abstract Unix sockets, that of the
HTTP port: all processes of a container see it, it needs no folder, and is gone with the process that gave it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def announced(port: int) -> Iterator[None]:
    """Say, within the block, that the server on this HTTP port is about to stop."""
    with socket.socket(socket.AF_UNIX) as word:
        with contextlib.suppress(OSError):  # said already
            word.bind(_name(port))
            word.listen()
        yield


def is_announced(port: int) -> bool:
    """Whether the server on this HTTP port is about to stop."""
    with socket.socket(socket.AF_UNIX) as question:
        question.settimeout(1)
        try:
            question.connect(_name(port))
        except BlockingIOError:
            return True  # many ask
        except OSError:
            return False
        return True


def _name(port: int) -> str:
    return f"\0periscope-stopping-{port}"
