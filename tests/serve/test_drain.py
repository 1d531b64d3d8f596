"""Stopping with requests in flight: they are answered first.

The ensemble has two steps, each of which works on one request after the other. Without the drain everything is lost
that has a step before it when Triton stops.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from periscope_serve import drain, stopping
from periscope_serve.server import Server
from serve import toys
from serve.conftest import Serve
from serve.leftovers import shared_memory

SLOW = Path(__file__).with_name("slow.py").read_text()
IN_FLIGHT = 50


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("two steps")
    for name in ("first", "second"):
        toys.write(made, name, SLOW, toys.PYTHON)
    toys.write(made, "both", None, toys.ensemble("first x=x > y=between", "second x=between > y=out"))
    return made


class Callers:
    """Requests in flight, over one channel: each takes so many seconds in each step."""

    def __init__(self, url: str) -> None:
        self._client = grpc.InferenceServerClient(url)
        self._threads = ThreadPoolExecutor(IN_FLIGHT)

    def send(self, seconds: float) -> Future[bool]:
        return self._threads.submit(self._ask, seconds)

    def _ask(self, seconds: float) -> bool:
        x = np.array([[seconds]], np.float32)
        tensor = grpc.InferInput("x", [1, 1], "FP32")
        tensor.set_data_from_numpy(x)
        try:
            return bool(self._client.infer("both", [tensor]).as_numpy("out") == x)
        except InferenceServerException:
            return False

    def close(self) -> None:
        self._threads.shutdown()
        self._client.close()


@contextlib.contextmanager
def calling(url: str) -> Iterator[Callers]:
    callers = Callers(url)
    yield callers
    callers.close()


@pytest.mark.parametrize(("options", "lost"), [((), 0), (("--drain", "0"), IN_FLIGHT // 2)])
def test_sigterm_with_requests_in_flight(serve: Serve, repository: Path, options: tuple[str, ...], lost: int) -> None:
    serving = serve(repository, "--grpc-port", "0", "--http-port", "0", "--metrics-port", "0", *options)
    serving.wait_ready()
    with calling(serving.url("grpc")) as callers:
        assert callers.send(0).result()
        answers = [callers.send(0.02) for _ in range(IN_FLIGHT)]
        time.sleep(0.3)
        assert not answers[-1].done()
        assert serving.end(signal.SIGTERM) == 0
        answered = [answer.result() for answer in answers].count(True)
    if lost:
        assert answered <= IN_FLIGHT - lost, "Triton drains ensembles by itself now: nothing of ours is needed"
    else:
        assert answered == IN_FLIGHT
        assert "periscope serve: stopping: what is in flight has 30 seconds" in serving.err
    assert not serving.left_behind()


def test_a_second_signal_ends_it_at_once(serve: Serve, repository: Path) -> None:
    serving = serve(repository)
    serving.wait_ready()
    port = int(serving.url("http").partition(":")[2])
    with calling(serving.url("grpc")) as callers:
        answer = callers.send(60)
        time.sleep(0.3)
        assert not stopping.is_announced(port)
        serving.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert stopping.is_announced(port)
        began = time.monotonic()
        assert serving.end(signal.SIGINT) == 0
        assert time.monotonic() - began < 3
        assert not answer.result()
    assert "stopping with requests in flight, which fail" in serving.err
    assert not serving.left_behind()
    assert not stopping.is_announced(port)


def test_the_process_of_a_model_dies(serve: Serve, repository: Path) -> None:
    serving = serve(repository)
    serving.wait_ready()
    (victim,) = [one for one in serving.triton().children() if "second_0_0" in one.cmdline()]
    began = time.monotonic()
    victim.kill()
    assert serving.process.wait(20) == 1
    assert time.monotonic() - began < 2
    assert serving.reason.startswith(
        "the process of model 'second' was killed by signal 9 (the kernel does that when memory runs out), and Triton "
        "starts none again"
    )
    assert not shared_memory(serving.process.pid)


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with Server([repository], grpc_port=0, http_port=0, metrics_port=0, log=log) as running:
        yield running


def test_an_idle_server_is_drained_within_a_second(server: Server) -> None:
    began = time.monotonic()
    assert server.drain(10)
    assert time.monotonic() - began < 2


def test_what_is_executed_is_waited_for(server: Server) -> None:
    """Neither pending nor counted: only the process that sleeps in the model's code shows it."""
    with calling(server.grpc_url) as callers:
        answer = callers.send(1.5)
        time.sleep(0.5)
        assert server.drain(20)
        assert answer.done()
        assert answer.result()


def test_new_requests_without_end_end_the_drain(server: Server) -> None:
    with calling(server.grpc_url) as callers:
        enough = threading.Event()

        def go_on() -> None:
            while not enough.is_set():
                callers.send(0.02).result()

        caller = threading.Thread(target=go_on)
        caller.start()
        began = time.monotonic()
        try:
            assert not server.drain(1.5)
            assert 1.5 <= time.monotonic() - began < 3
        finally:
            enough.set()
            caller.join()


def test_the_drain_of_a_pre_stop_hook(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """The view of the metrics alone: a queue, and answers that come."""
    where = ["--host", "127.0.0.1"]
    for name, flag in (("http", "--http-port"), ("metrics", "--metrics-port")):
        where += [flag, server.url(name).partition(":")[2]]
    with calling(server.grpc_url) as callers:
        answers = [callers.send(0.03) for _ in range(IN_FLIGHT)]
        assert drain.main([*where, "--settle", "0.2", "--max", "0.5"]) == 1
        assert "requests are still in flight after 0.5 seconds" in capsys.readouterr().err
        assert drain.main([*where, "--settle", "0.2", "--max", "30"]) == 0
        assert all(answer.done() for answer in answers)
    assert capsys.readouterr().out == "periscope-drain: nothing is in flight\n"


def test_the_drain_of_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert drain.main(["--settle", "0", "--max", "0.3", "--metrics-port", "1", "--http-port", "1"]) == 1
    assert "the metrics on port 1 do not answer" in capsys.readouterr().err
