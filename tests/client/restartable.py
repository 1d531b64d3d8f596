"""A server that tests end and start again while clients use it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from periscope_serve.server import Server

from .standin import write_repository


class Restartable:
    """A server on fixed ports that can be started with other weights and killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: Server | None = None
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
            self.ports = [free.getsockname()[1] for free in sockets]

    def start(self, fingerprint: str) -> None:
        repository = self.folder / fingerprint
        if not repository.exists():
            write_repository(repository, fingerprint, only="toy", encoders=2)
        grpc, http, metrics = self.ports
        self.server = Server(
            [repository], grpc_port=grpc, http_port=http, metrics_port=metrics, log=self.folder / "triton.log"
        )
        self.server.start()

    def url(self, protocol: str) -> str:
        return f"127.0.0.1:{self.ports[('grpc', 'http').index(protocol)]}"

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """End the server by a signal and wait for its end."""
        assert self.server is not None
        os.kill(self.server.pid, signum)
        self.server.stop()
        self.server = None


@contextlib.contextmanager
def later(seconds: float, *actions: object) -> Iterator[None]:
    """Run the actions in a thread, some time after the block has begun; wait for them at its end."""

    def act() -> None:
        time.sleep(seconds)
        for action in actions:
            action()  # type: ignore[operator]

    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()
