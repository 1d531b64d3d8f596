"""`periscope serve` as a process: how it starts, how it ends, what it leaves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serve import toys
from serve.leftovers import descendants, running, shared_memory

PORTS = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
SLEEPER = """import time
class TritonPythonModel:
    def initialize(self, args):
        time.sleep(60)
"""

Serve = Callable[..., "Running"]


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

    def end(self, signum: int) -> int:
        self.process.send_signal(signum)
        return self.process.wait(30)

    def triton(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def left_behind(self) -> list[Path]:
        return [*shared_memory(self.process.pid), *self.scratch.iterdir()]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Running] = []

    def start(repository: Path, *options: str) -> Running:
        folder = tmp_path / f"serve{len(started)}"
        folder.mkdir()
        started.append(Running(folder, repository, *options))
        return started[-1]

    yield start
    for serving in started:
        if serving.process.poll() is None:
            serving.process.terminate()
        serving.process.wait(30)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    toys.write(made, "double", toys.double(["B", "N"]), toys.DOUBLE)
    return made


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    """A repository whose model takes a minute to load."""
    toys.write(tmp_path / "sleeper", "slow", SLEEPER, toys.PYTHON)
    return tmp_path / "sleeper"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_ready_line_and_clean_stop(serve: Serve, repository: Path, signum: int) -> None:
    serving = serve(repository)
    serving.wait_ready()
    word, *fields = serving.out.split()
    assert word == "ready"
    values = dict(field.split("=") for field in fields)
    assert list(values) == ["grpc", "http", "metrics", "models"]
    assert values["models"] == "double"
    for service in ("grpc", "http", "metrics"):
        host, port = values[service].split(":")
        assert host == "127.0.0.1"
        socket.create_connection((host, int(port)), timeout=5).close()
    processes = descendants(serving.process.pid)
    assert len(processes) >= 2, "Triton and a stub"
    assert os.getpgid(serving.triton().pid) == serving.triton().pid, "a terminal's Ctrl-C must reach serve alone"
    assert len(serving.left_behind()) > 1, "what must be gone in the end is not where it is looked for"
    assert serving.end(signum) == 0
    assert serving.out.count("\n") == 1
    assert "Started GRPCInferenceService" in serving.err
    assert not running(processes)
    assert not serving.left_behind()


def test_triton_killed(serve: Serve, repository: Path) -> None:
    serving = serve(repository)
    serving.wait_ready()
    processes = descendants(serving.process.pid)
    serving.triton().kill()
    assert serving.process.wait(20) == 1
    assert serving.reason.startswith("Triton was killed by signal 9 (the kernel does that when memory runs out).")
    assert "Start it again; the last lines of its log were:\n" in serving.reason
    assert not running(processes), "stubs outlived their server"
    assert not serving.left_behind()


def test_serve_killed(serve: Serve, repository: Path) -> None:
    serving = serve(repository)
    serving.wait_ready()
    processes = descendants(serving.process.pid)
    serving.end(signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert not alive, "Triton outlived serve"
    assert not shared_memory(serving.process.pid)


def test_stopped_while_starting(serve: Serve, sleeper: Path) -> None:
    serving = serve(sleeper)
    serving.wait_for(lambda: shared_memory(serving.process.pid))
    processes = descendants(serving.process.pid)
    assert serving.end(signal.SIGTERM) == 0
    assert serving.out == ""
    assert not running(processes)
    assert not serving.left_behind()


def test_start_timeout(serve: Serve, sleeper: Path) -> None:
    serving = serve(sleeper, *PORTS, "--start-timeout", "3")
    assert serving.process.wait(20) == 1
    assert serving.reason.startswith("nothing was ready after 3 seconds. Give it longer with --start-timeout")
    assert "loading: slow:1" in serving.reason
    assert not serving.left_behind()


def test_port_taken(serve: Serve, repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        serving = serve(repository, "--grpc-port", "0", "--http-port", str(port), "--metrics-port", "0")
        assert serving.process.wait(20) == 1
    assert serving.reason.startswith(f"the http port {port} on 127.0.0.1 cannot be used: Address already in use.")
    assert "--http-port" in serving.reason
    assert not serving.left_behind()


def test_missing_model_py_is_caught_before_the_start(serve: Serve, repository: Path) -> None:
    (toys.write(repository, "broken", "", toys.PYTHON) / "model.py").unlink()
    serving = serve(repository)
    assert serving.process.wait(20) == 1
    assert "model 'broken': 1/model.py is missing" in serving.err
    assert "Started" not in serving.err
    assert not serving.left_behind()


def test_a_model_that_fails_to_load(serve: Serve, repository: Path) -> None:
    toys.write(repository, "broken", "raise ValueError('the tokenizer is gone')", toys.PYTHON)
    serving = serve(repository)
    assert serving.process.wait(30) == 1
    assert "model 'broken': ValueError: the tokenizer is gone" in serving.reason
    assert not serving.left_behind()
