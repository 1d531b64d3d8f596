"""`periscope serve` as a process: how it starts, how it ends, what it leaves."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import psutil
import pytest

from serve import toys
from serve.conftest import Serve
from serve.leftovers import descendants, running, shared_memory
from serve.running import PORTS

SLEEPER = """import time
class TritonPythonModel:
    def initialize(self, args):
        time.sleep(60)
"""


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
    ports = [f"--{name}-port={serving.url(name).partition(':')[2]}" for name in ("grpc", "http", "metrics")]
    serving.end(signal.SIGKILL)
    again = serve(repository, *ports)
    _, alive = psutil.wait_procs(processes, timeout=15)
    assert not alive, "Triton outlived serve"
    again.wait_ready()
    assert again.url("grpc") == serving.url("grpc")
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
