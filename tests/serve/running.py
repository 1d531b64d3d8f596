"""`periscope serve` as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from serve.leftovers import shared_memory

PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


class Running:
    """A `periscope serve` with its output in files, so that no pipe can block it."""

    def __init__(self, folder: Path, repository: Path, *options: str):
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        self._out, self._err = folder / "out", folder / "err"
        # As a script starts a job in the background: with SIGINT ignored, which must end it all the same.
        command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c"]
        command += ["from periscope_client.console import main; raise SystemExit(main())", "serve"]
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [*command, str(repository), *(options or PORTS)],
                stdout=out,
                stderr=err,
                env={**os.environ, "TMPDIR": str(self.scratch)},
            )

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def reason(self) -> str:
        return self.err.partition("periscope serve: ")[2]

    def wait_for(self, condition: Callable[[], object], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"serve ended with {self.process.returncode}:\n{self.err}"
            assert time.monotonic() < end, f"waited {seconds} s in vain:\n{self.err}"
            time.sleep(0.02)

    def wait_ready(self) -> None:
        self.wait_for(lambda: self.out.endswith("\n"))

    def url(self, service: str) -> str:
        (found,) = [word for word in self.out.split() if word.startswith(f"{service}=")]
        return found.partition("=")[2]

    def end(self, signum: int) -> int:
        self.process.send_signal(signum)
        return self.process.wait(30)

    def triton(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def left_behind(self) -> list[Path]:
        return [*shared_memory(self.process.pid), *self.scratch.iterdir()]
