"""Triton as a child process: started, its log read, and ended with everything it started."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

LINES_KEPT = 400
LOG_GRACE = 5.0


class Process:
    """A program in its own process group, whose output goes line by line to `sink`."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], sink: Callable[[str], None]):
        self._command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("lifeline.py")), str(os.getpid())]
        self._command += command
        self._variables = dict(variables)
        self._sink = sink
        self._lines: collections.deque[str] = collections.deque(maxlen=LINES_KEPT)
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._child: subprocess.Popen[str] | None = None
        # The kernel sends the parent-death signal when the *thread* that started the child ends. So the thread that
        # starts Triton is the one that reads its log to the end.
        self._thread = threading.Thread(target=self._run, name="triton-log", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._child = subprocess.Popen(
                self._command,
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._started.set()
        assert self._child.stdout is not None
        with self._child.stdout as output:
            for line in output:
                self._lines.append(line.rstrip("\n"))
                # A log that nobody can take any more must not stop the server, nor fill its pipe.
                with contextlib.suppress(OSError, ValueError):
                    self._sink(line)

    @property
    def child(self) -> subprocess.Popen[str]:
        """The child itself."""
        assert self._child is not None
        return self._child

    def lines(self) -> list[str]:
        """The last lines of the log."""
        return list(self._lines)

    def alive(self) -> bool:
        """Whether the program runs. It is not reaped, so that its id keeps naming its process group."""
        if self.child.returncode is not None:
            return False
        return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, seconds: float, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the program to end; whether it did."""
        end = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > end or given_up():
                return False
            time.sleep(0.02)
        return True

    def end(self, grace: float, given_up: Callable[[], bool] = lambda: False) -> int:
        """Ask the program to stop, kill what has not after `grace` seconds, and return its exit status.

        It is killed as soon as `given_up()`, too.
        """
        if self.child.returncode is None:
            if self.alive() and grace and not given_up():
                self.child.send_signal(signal.SIGTERM)
                self.wait(grace, given_up)
            # Also when the program has ended by itself: stubs outlive a server that was killed.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
            # The log ends with the last process that holds it; one that left the group is not waited for.
            self._thread.join(LOG_GRACE)
        return self.child.returncode
