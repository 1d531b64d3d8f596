"""Our side of a peer: start its script, send a line, wait for the line that answers, end it.

A request and an answer are one JSON object a line, over the script's stdin and stdout; stderr is its log.

    {"op": "load", "checkpoint": DIR, "precision": "fp32", "threads": 2}  ->  {"seconds": 3.1, "versions": {...}}
    {"op": "pages", "files": [PNG, ...], "vectors": FILE}                 ->  {"seconds": 2.9, "vectors": FILE}
    {"op": "queries", "texts": [TEXT, ...], "vectors": FILE}              ->  {"seconds": 0.1, "vectors": FILE}
    {"op": "prepare", "checkpoint": DIR, "files": [...], "threads": 2}    ->  {"seconds": 0.4}
    {"op": "peak", "precision": "fp32"}                                   ->  {"seconds": 1.2, "gflops": {"torch": 169}}
    anything that fails                                                   ->  {"error": "ValueError: ..."}

`seconds` is what the work took inside the peer, without what it takes to write FILE: a numpy archive with an array
[T, K] an item, in the order in which the items came.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from periscope_perf.interleaved import SideError

Vectors = list[NDArray[np.float32]]

LINES_KEPT = 40
END_GRACE = 5.0


class PeerError(SideError):
    """A peer could not do what it was asked, died, or did not answer in time."""


@dataclass(frozen=True)
class Answered:
    """Seconds that the work took, and the vectors [T, K] of each item where any were made."""

    seconds: float
    vectors: Vectors


class Peer:
    """A peer's script, running. A context manager; `close` ends the script and everything that it started."""

    def __init__(
        self,
        name: str,
        python: Path | str,
        script: Path | str,
        *,
        timeout: float = 600.0,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start it. `timeout` is what one answer may take, in seconds. Raises `PeerError`."""
        self.name = name
        self.versions: dict[str, str] = {}
        self._timeout = timeout
        self._log: collections.deque[str] = collections.deque(maxlen=LINES_KEPT)
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._scratch = tempfile.TemporaryDirectory(prefix="periscope-peer-")
        try:
            self._child = subprocess.Popen(
                # Not `-I`: a peer that runs in this very environment needs its PYTHONPATH.
                [str(python), "-u", str(script)],
                env={**os.environ, **(variables or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            self._scratch.cleanup()
            raise PeerError(f"{name}: cannot be started: {error}. Make its environment: make peers") from None
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._read_answers, self._read_log)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process id of the script, which is that of its process group too."""
        return self._child.pid

    def load(self, checkpoint: Path, precision: str, threads: int) -> float:
        """Load a checkpoint and return the seconds that it took. Raises `PeerError`."""
        answer = self._ask({"op": "load", "checkpoint": str(checkpoint), "precision": precision, "threads": threads})
        self.versions = {str(name): str(value) for name, value in answer.get("versions", {}).items()}
        return float(answer["seconds"])

    def pages(self, files: Sequence[Path]) -> Answered:
        """Embed image files. Raises `PeerError`."""
        return self._vectors({"op": "pages", "files": [str(file) for file in files]}, len(files))

    def queries(self, texts: Sequence[str]) -> Answered:
        """Embed queries, one after the other. Raises `PeerError`."""
        return self._vectors({"op": "queries", "texts": list(texts)}, len(texts))

    def prepare(self, checkpoint: Path, files: Sequence[Path], threads: int) -> float:
        """Seconds from the bytes of image files to patches; no model has to be loaded. Raises `PeerError`."""
        names = [str(file) for file in files]
        answer = self._ask({"op": "prepare", "checkpoint": str(checkpoint), "files": names, "threads": threads})
        return float(answer["seconds"])

    def peak(self, precision: str) -> dict[str, float]:
        """GFLOP/s of a large matrix product, by what computes it. Raises `PeerError`."""
        answer = self._ask({"op": "peak", "precision": precision})
        return {str(name): float(value) for name, value in answer["gflops"].items()}

    def log(self) -> str:
        """The last lines that it wrote to stderr."""
        return "\n".join(self._log)

    def close(self) -> None:
        """End it, kindly at first; its process group goes with it. Closing twice does no harm."""
        with contextlib.suppress(OSError):
            if self._child.stdin is not None:
                self._child.stdin.close()
        # Until it is reaped, its id can name no other process's group.
        if self._child.returncode is None:
            _wait_unreaped(self._child.pid, END_GRACE)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        for reader in self._readers:
            reader.join(END_GRACE)
        self._scratch.cleanup()

    def _vectors(self, request: dict[str, Any], count: int) -> Answered:
        file = Path(self._scratch.name) / "vectors.npz"
        file.unlink(missing_ok=True)
        answer = self._ask({**request, "vectors": str(file)})
        try:
            with np.load(answer["vectors"]) as stored:
                vectors = [np.asarray(stored[f"arr_{item}"], np.float32) for item in range(len(stored.files))]
        except (KeyError, OSError, ValueError) as error:
            raise self._error(f"its vectors cannot be read: {error}") from None
        if len(vectors) != count:
            raise self._error(f"it made {len(vectors)} vectors of {count} items")
        return Answered(float(answer["seconds"]), vectors)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        op = request["op"]
        if self._child.returncode is not None:
            raise self._error(f"ended with status {self._child.returncode} and cannot answer {op!r}")
        assert self._child.stdin is not None
        # A peer that died is told from the end of its answers, below.
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
        try:
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            log = self._error(f"no answer to {op!r} within {self._timeout:g} seconds")
            self.close()  # what comes later would answer another question
            raise log from None
        if line is None:
            self.close()  # so that its log is complete
            raise self._error(f"ended with status {self._child.returncode} instead of answering {op!r}")
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict) or not ({"seconds", "error"} & answer.keys()):
            raise self._error(f"answered {op!r} with {line.strip()[:200]!r}")
        if "error" in answer:
            raise self._error(f"{op} failed: {answer['error']}")
        return answer

    def _error(self, what: str) -> PeerError:
        log = self.log()
        return PeerError(f"{self.name}: {what}" + (f". The last lines of its log were:\n{log}" if log else ""))

    def _read_answers(self) -> None:
        assert self._child.stdout is not None
        with self._child.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put(None)

    def _read_log(self) -> None:
        assert self._child.stderr is not None
        with self._child.stderr as lines:
            for line in lines:
                self._log.append(line.rstrip("\n"))


def _wait_unreaped(pid: int, seconds: float) -> None:
    """Wait for a child to end, without taking its status: its id stays its own until then."""
    done = threading.Event()

    def wait() -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    done.wait(seconds)
