"""The embedded Triton: one `Server` is one tritonserver process and everything that belongs to it."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from periscope_serve import drain, environment, health, machine, ports, shared_memory, stopping, stubs
from periscope_serve.backend_directory import BACKENDS, assemble, size
from periscope_serve.check import SAFE_NAME, require_sound
from periscope_serve.errors import ServerDiedError, StartError
from periscope_serve.process import Process
from periscope_serve.reason import failure, tail
from periscope_serve.repository import read

EXIT_TIMEOUT = 5
"""Seconds Triton takes at most to end its models and connections."""

START_GRACE = 2
"""Seconds to stop in for a server that was never ready: nobody waits for an answer."""


class Server:
    """Triton serving one or more model repositories, ready when the `with` block begins.

    `log` is where Triton's log goes: a file, or None for stderr. A port of 0 picks a free one. `verify_files` compares
    every file with its digest in `fidelity.json` before the start.
    """

    def __init__(
        self,
        repositories: Sequence[str | Path],
        *,
        host: str = "127.0.0.1",
        grpc_port: int = 8001,
        http_port: int = 8000,
        metrics_port: int = 8002,
        start_timeout: float = 300.0,
        log: Path | None = None,
        log_verbose: int = 0,
        verify_files: bool = False,
    ):
        self.repositories = [Path(repository).resolve() for repository in repositories]
        self.host = host
        self.models: list[str] = []
        self._wanted = {"grpc": grpc_port, "http": http_port, "metrics": metrics_port}
        self._ports: dict[str, int] = {}
        self._start_timeout = start_timeout
        self._log = log
        self._log_verbose = log_verbose
        self._verify_files = verify_files
        self._process: Process | None = None
        self._stubs: list[stubs.Stub] = []
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def url(self, name: str) -> str:
        """`host:port` of "grpc", "http" or "metrics", as a client on this machine reaches it."""
        return f"{self._reachable}:{self._ports[name]}"

    @property
    def grpc_url(self) -> str:
        """`host:port` of the gRPC service."""
        return self.url("grpc")

    @property
    def http_url(self) -> str:
        """`host:port` of the HTTP service."""
        return self.url("http")

    @property
    def metrics_url(self) -> str:
        """`host:port` of the Prometheus metrics."""
        return self.url("metrics")

    def ready_line(self) -> str:
        """One line that says what is served where."""
        addresses = " ".join(f"{name}={self.host}:{port}" for name, port in self._ports.items())
        return f"ready {addresses} models={','.join(self.models)}"

    @property
    def pid(self) -> int:
        """The process id of tritonserver."""
        assert self._process is not None
        return self._process.child.pid

    @property
    def _reachable(self) -> str:
        return "127.0.0.1" if self.host == "0.0.0.0" else self.host

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Start Triton and return once every model is ready, or as soon as `cancelled()`.

        Raises a `ServeError` when that cannot be or takes longer than the start timeout; nothing is left running then.
        """
        try:
            self._launch()
            end = time.monotonic() + self._start_timeout
            while not (cancelled() or self._ready()):
                self._check_start(time.monotonic() > end)
                time.sleep(0.05)
            self.models = health.models(self._reachable, self._ports["http"])
            self._stubs = stubs.find(self.pid, self.models)
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Raise `ServerDiedError` when Triton is gone, or one of the processes that run its models."""
        assert self._process is not None
        if not self._process.alive():
            lines = self._process.lines()
            how = stubs.ending(self.stop())
            raise ServerDiedError(f"Triton {how}. Start it again; the last lines of its log were:\n{tail(lines)}")
        for stub in self._stubs:
            if (ended := stub.ending()) is not None:
                lines = self._process.lines()
                # It would wait for the dead one until its time is over.
                self.stop(given_up=lambda: True)
                raise ServerDiedError(
                    f"the process of model '{stub.model}' {ended}, and Triton starts none again: every later request "
                    f"to it would fail. Start the server again; the last lines of Triton's log were:\n{tail(lines)}"
                )

    def drain(self, seconds: float, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until nothing is pending or executing; whether that came within so many seconds.

        Until the process ends, whoever asks for the server's health (`periscope-healthcheck`) hears that it stops.
        """
        self._resources.enter_context(stopping.announced(self._ports["http"]))

        def idle() -> bool | None:
            self.check()
            waiting = [stub.waits() for stub in self._stubs]
            return False if False in waiting else None if None in waiting else True

        return drain.wait_until_idle(self._reachable, self._ports["metrics"], seconds, idle, given_up)

    def stop(self, given_up: Callable[[], bool] = lambda: False) -> int:
        """End Triton, kill what does not end in time, remove what they left behind; Triton's exit status.

        What is in flight is lost: see `drain`. Everything is killed as soon as `given_up()`.
        """
        status = 0
        if self._process is not None:
            status = self._process.end(EXIT_TIMEOUT + 5 if self.models else START_GRACE, given_up)
        self._resources.close()
        return status

    def _launch(self) -> None:
        found = environment.find()
        require_sound(self.repositories, BACKENDS, self._verify_files)
        self.host = ports.resolve(self.host)
        self._ports = ports.choose(self.host, self._wanted)
        scratch = self._resources.enter_context(machine.scratch_folder())
        sink = sys.stderr if self._log is None else self._resources.enter_context(self._log.open("w"))

        def forward(line: str) -> None:
            sink.write(line)
            sink.flush()

        models = read(self.repositories)[0]
        warnings = (*machine.ignored_tmpdir(), *machine.raise_open_files(len(models)), *shared_memory.check(models))
        for warning in warnings:
            forward(f"periscope serve: {warning}\n")
        machine.check_cpus()
        prefix = f"periscope_{os.getpid()}_{secrets.token_hex(4)}_"
        self._resources.callback(shared_memory.remove, prefix)
        with machine.writing(scratch, size(found)):
            repositories = [_plain_path(path, scratch / f"repository{i}") for i, path in enumerate(self.repositories)]
            backends = assemble(found, scratch / "backends")
        command = self._command(found, repositories, backends, prefix)
        # Files of Triton and its models in the temporary folder go with the scratch directory.
        variables = {**found.variables(os.environ), "TMPDIR": str(scratch)}
        self._process = Process(command, variables, forward)

    def _command(
        self, found: environment.Environment, repositories: list[Path], backends: Path, prefix: str
    ) -> list[str]:
        command = [str(found.server)]
        command += [f"--model-repository={repository}" for repository in repositories]
        command += [f"--backend-directory={backends}", f"--cache-directory={found.caches}"]
        # Regions that carry our own name can be removed after a server that had no time to.
        command += [f"--backend-config={backend},shm-region-prefix-name={prefix}" for backend in BACKENDS]
        for service, port in self._ports.items():
            # Triton's default address is every interface of the machine.
            command += [f"--{service}-address={self.host}", f"--{service}-port={port}"]
        if all(model.is_complete for model in read(self.repositories)[0].values()):
            # Triton starts a process for each model to ask what its config lacks: half of the time to ready.
            command.append("--disable-auto-complete-config")
        return [*command, f"--exit-timeout-secs={EXIT_TIMEOUT}", f"--log-verbose={self._log_verbose}"]

    def _ready(self) -> bool:
        # Metrics come up last.
        return health.ready(self._reachable, self._ports["http"]) and health.listens(
            self._reachable, self._ports["metrics"]
        )

    def _check_start(self, late: bool) -> None:
        assert self._process is not None
        if not self._process.alive():
            # Killing its group closes the pipe, and then the log is complete.
            self._process.end(0)
            raise StartError(failure(self._process.lines()))
        if late:
            raise StartError(
                f"nothing was ready after {self._start_timeout:g} seconds. Give it longer with --start-timeout, or see "
                f"what it waits for; the last lines of Triton's log were:\n{tail(self._process.lines())}"
            )


def _plain_path(repository: Path, link: Path) -> Path:
    """The repository, or a link to it where its path would not survive the shell that Triton hands it to, unquoted."""
    if all(SAFE_NAME.fullmatch(part) for part in repository.parts[1:]):
        return repository
    link.symlink_to(repository)
    return link
