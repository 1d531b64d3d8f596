"""The Python processes of a running Triton: one for each instance of a Python model, which Triton calls its stub.

Triton does not start one again that died, and goes on saying that it is ready. It leaves a dead one as a zombie, so
/proc says how it ended.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from periscope_serve.processes import PROC, commands, state

_PROGRAM = "triton_python_backend_stub"
_REGION, _INSTANCE = 2, 8  # places in its command line


@dataclass(frozen=True)
class Stub:
    """A process that runs one instance of a model.

    pid, born: its number, and the time of its start, which tells it from a later process of that number.
    model: its name.
    region: the shared memory through which Triton talks to it.
    """

    pid: int
    born: int
    model: str
    region: str

    def ending(self) -> str | None:
        """Its end in words, None while it runs."""
        now = state(self.pid)
        if now is None or now.born != self.born:
            return "is gone"
        return ending(os.waitstatus_to_exitcode(now.status)) if now.ended else None

    def waits(self) -> bool | None:
        """Whether it waits for a request; None where the kernel does not let us see.

        Its main thread executes requests. Between two of them it sleeps on a lock in the shared memory; in a model's
        code it may sleep too, but never on that.
        """
        try:
            _, address, *_ = (PROC / f"{self.pid}/syscall").read_text().split()
        except ValueError:
            return False  # "running"
        except OSError:
            return None
        return any(begin <= int(address, 16) < end for begin, end in self._region())

    def _region(self) -> Iterator[tuple[int, int]]:
        try:
            lines = (PROC / f"{self.pid}/maps").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            if line.endswith(f"/{self.region}"):
                begin, end = line.split(maxsplit=1)[0].split("-")
                yield int(begin, 16), int(end, 16)


def ending(status: int) -> str:
    """The end of a process in words, from its status as `subprocess` has it: negative where a signal ended it."""
    if status >= 0:
        return f"ended with status {status}"
    hint = " (the kernel does that when memory runs out)" if status == -9 else ""
    return f"was killed by signal {-status}{hint}"


def find(server: int, models: Iterable[str]) -> list[Stub]:
    """The stubs of a Triton by its process id, which serves `models`."""
    names = sorted(models, key=len, reverse=True)
    found = []
    for pid, words in commands():
        if not words[0].endswith(_PROGRAM) or len(words) <= _INSTANCE:
            continue
        now = state(pid)
        if now is not None and now.parent == server:
            instance = words[_INSTANCE]
            model = next((name for name in names if re.fullmatch(rf"{re.escape(name)}(_\d+)+", instance)), instance)
            found.append(Stub(pid, now.born, model, words[_REGION]))
    return found
