"""The command of the image `gpu`: its arguments, and what the embedded Triton does with them."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from client.standin import write_repository
from deploy.dockerfile import ROOT, TARGETS, read
from periscope_client import Retriever, UnknownModel
from periscope_client._endpoint import Protocol
from periscope_export.recipes.loading import load_recipe
from periscope_serve import environment, health, healthcheck, ports, shared_memory, stopping, stubs
from periscope_serve.backend_directory import assemble
from periscope_serve.process import Process

SCRIPT = ROOT / "deploy" / "periscope-triton"
KEY = "sesame"
HEADER = "periscope-admin"
RESTRICTED = ("/v2/repository/index", "/v2/systemsharedmemory/status", "/v2/trace/setting", "/v2/logging")
# The embedded Triton is older than this one.
UNKNOWN = "--http-max-input-size="

Arguments = Callable[..., list[str]]


@pytest.fixture
def arguments(tmp_path: Path) -> Arguments:
    """The script's arguments to tritonserver."""
    server = tmp_path / "tritonserver"
    server.write_text('#!/bin/sh\necho "key in the environment: ${PERISCOPE_ADMIN_KEY-none}"\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)

    def run(*words: str, **variables: str) -> list[str]:
        done = subprocess.run(
            [SCRIPT, *words],
            env={"PATH": f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin", **variables},
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        environment, *handed = done.stdout.splitlines()
        assert environment.endswith("none")
        return handed

    return run


def value(arguments: list[str], name: str) -> str:
    (found,) = [word for word in arguments if word.startswith(f"{name}=")]
    return found.removeprefix(f"{name}=")


def test_arguments_of_the_caller_come_last(arguments: Arguments) -> None:
    handed = arguments("--log-verbose=1", "--model-repository=/a folder")
    assert handed[0] == "--model-repository=/models"
    assert handed[-2:] == ["--log-verbose=1", "--model-repository=/a folder"]


def test_a_page_at_the_limit_fits_into_a_request_over_http(arguments: Arguments) -> None:
    assert int(value(arguments(), "--http-max-input-size")) > load_recipe("colqwen2").preparation.limits.image_bytes


def test_without_a_key_a_new_one_closes_the_apis_at_every_start(arguments: Arguments) -> None:
    first, second = arguments(), arguments()
    for option in ("--http-restricted-api", "--grpc-restricted-protocol"):
        apis, _, key = value(first, option).partition(f":{HEADER}=")
        assert apis.split(",") == ["model-repository", "shared-memory", "trace", "logging"]
        assert len(key) >= 40
        assert value(second, option) != value(first, option)


def test_apis_and_key_can_be_chosen(arguments: Arguments) -> None:
    handed = arguments(PERISCOPE_RESTRICTED_APIS="statistics", PERISCOPE_ADMIN_KEY=KEY)
    assert value(handed, "--http-restricted-api") == f"statistics:{HEADER}={KEY}"
    assert value(handed, "--grpc-restricted-protocol") == f"statistics:{HEADER}={KEY}"


def test_no_apis_restrict_nothing(arguments: Arguments) -> None:
    assert not [word for word in arguments(PERISCOPE_RESTRICTED_APIS="") if "restricted" in word]


@dataclass(frozen=True)
class Started:
    ports: dict[str, int]
    pid: int

    def url(self, service: str) -> str:
        return f"127.0.0.1:{self.ports[service]}"

    def status(self, path: str, headers: dict[str, str]) -> int:
        connection = http.client.HTTPConnection(self.url("http"), timeout=20)
        method = "POST" if path.endswith("index") else "GET"
        connection.request(method, path, headers={"Connection": "close", **headers})
        status = connection.getresponse().status
        connection.close()
        return status


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with start(tmp_path_factory.mktemp("image")) as started:
        yield started


@contextlib.contextmanager
def start(folder: Path, grace: float = 30) -> Iterator[Started]:
    """The embedded Triton, started by the script; it has so many seconds to end, and is killed where it has none."""
    repository = write_repository(folder / "models", only="toy", encoders=1)
    found = environment.find()
    chosen = ports.choose("127.0.0.1", {"http": 0, "grpc": 0, "metrics": 0})
    options = [f"--{name}-port={port}" for name, port in chosen.items()]
    options += [f"--{name}-address=127.0.0.1" for name in chosen]
    prefix = f"periscope_{os.getpid()}_{folder.name}_"
    options += [f"--backend-config=python,shm-region-prefix-name={prefix}"]
    options += [f"--model-repository={repository}", f"--backend-directory={assemble(found, folder / 'backends')}"]
    server = folder / "bin" / "tritonserver"
    server.parent.mkdir()
    server.write_text(
        "#!/bin/bash\nfor word; do shift\n"
        f'case $word in {UNKNOWN}*|--model-repository=/models) ;; *) set -- "$@" "$word" ;; esac\n'
        f'done\nexec "{found.server}" "$@"\n'
    )
    server.chmod(0o755)
    variables = found.variables(os.environ)
    variables |= {"PATH": f"{server.parent}:{variables['PATH']}", "PERISCOPE_ADMIN_KEY": KEY, "TMPDIR": str(folder)}
    log: list[str] = []
    process = Process([str(SCRIPT), *options], variables, log.append)
    try:
        end = time.monotonic() + 60
        while not health.ready("127.0.0.1", chosen["http"]):
            assert process.alive(), "".join(log)
            assert time.monotonic() < end, "".join(log)
            time.sleep(0.05)
        yield Started(chosen, process.child.pid)
    finally:
        status = process.end(grace)
        shared_memory.remove(prefix)
    assert status == (0 if grace else -signal.SIGKILL), "".join(log)


@pytest.mark.parametrize("path", RESTRICTED)
def test_restricted_over_http(started: Started, path: str) -> None:
    assert started.status(path, {}) == 403
    assert started.status(path, {HEADER: KEY}) == 200


def test_restricted_over_grpc(started: Started) -> None:
    with grpc.InferenceServerClient(started.url("grpc")) as client:
        for refused in (client.get_system_shared_memory_status, client.get_model_repository_index):
            with pytest.raises(InferenceServerException, match="restricted"):
                refused()
        assert client.get_model_repository_index(headers={f"triton-grpc-protocol-{HEADER}": KEY}).models


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_clients_need_no_key(started: Started, protocol: Protocol) -> None:
    with Retriever(started.url(protocol), "toy", protocol=protocol) as retriever:
        vectors = retriever.embed_text(["revenue by region"])
        assert np.isfinite(retriever.maxsim(vectors, vectors)).all()
    with (
        pytest.raises(UnknownModel, match="does not tell which it has"),
        Retriever(started.url(protocol), "other", protocol=protocol),
    ):
        pass


class Loading(BaseHTTPRequestHandler):
    """Answers as a Triton does whose models are not all ready."""

    def do_GET(self) -> None:
        self.send_response(400)
        self.end_headers()


@pytest.fixture
def loading() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Loading) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def run_command(words: Sequence[str], *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command of the images, which finds no package but Periscope's there, nor any other here."""
    entry = re.search(rf'^{words[0]} = "([\w.]+):(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert entry is not None
    code = f"from {entry[1]} import {entry[2]}; raise SystemExit({entry[2]}())"
    return subprocess.run(
        [sys.executable, "-S", "-c", code, *words[1:], *options],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "serve"), **variables},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(started: Started) -> Check:
    """The health check of both images: its status and what it says."""
    (words,) = {tuple(read()[1][name].health_check()) for name in TARGETS}

    def run(*options: str, port: int = started.ports["http"], **variables: str) -> tuple[int, str]:
        done = run_command(words, "--http-port", str(port), *options, **variables)
        assert not done.stderr
        return done.returncode, done.stdout.rstrip()

    return run


def test_health_check(check: Check, started: Started, loading: int) -> None:
    assert check() == (0, "healthy: toy_embed_image, toy_embed_text")
    assert check(port=loading) == (1, f"unhealthy: not every model is ready at 127.0.0.1:{loading}")
    assert check(port=started.ports["grpc"])[0] == 1
    with stopping.announced(started.ports["http"]):
        assert check() == (1, "unhealthy: the server is about to stop")


def test_a_server_at_work_is_healthy_and_one_that_answers_nobody_is_not(started: Started) -> None:
    def check(seconds: float) -> list[str]:
        return healthcheck.check(healthcheck.Server("127.0.0.1", started.ports["http"], {}, seconds))

    with Retriever(started.url("grpc"), "toy", timeout=30) as retriever, ThreadPoolExecutor(1) as caller:
        work = caller.submit(retriever.embed_text, ["sleep: 0.5"] * 5, progress=False)
        assert check(1.5) == ["toy_embed_image", "toy_embed_text"]
        work.result()
        work = caller.submit(retriever.embed_text, ["sleep: 4"], progress=False)
        time.sleep(0.3)
        with pytest.raises(healthcheck.UnhealthyError, match=r"toy_embed_text does not answer within 0\.5 seconds"):
            check(0.5)
        assert not work.done()


def test_drain_command(started: Started) -> None:
    ports = ["--http-port", str(started.ports["http"]), "--metrics-port", str(started.ports["metrics"])]
    done = run_command(("periscope-drain",), "--settle", "0.1", "--max", "20", *ports)
    assert (done.returncode, done.stdout) == (0, "periscope-drain: nothing is in flight\n")


def test_a_dead_process_is_unhealthy(check: Check, tmp_path: Path) -> None:
    with start(tmp_path, grace=0) as dying:
        (stub,) = [one for one in stubs.find(dying.pid, ["standin_encoder"]) if one.model == "standin_encoder"]
        os.kill(stub.pid, signal.SIGKILL)
        assert health.ready("127.0.0.1", dying.ports["http"]), "Triton tells it now: nothing of ours is needed"
        status, said = check(port=dying.ports["http"])
    assert status == 1
    assert "toy_embed_text answers 500: " in said
