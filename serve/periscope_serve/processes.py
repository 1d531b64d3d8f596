"""Processes that are not our children, read from /proc (proc(5))."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class State(NamedTuple):
    """A process. Numbers are used again: only a number and its birth together are one process.

    ended: whether it has.
    parent: the number of its parent.
    born: the time of its start.
    status: its end, as `os.waitpid` says it.
    """

    ended: bool
    parent: int
    born: int
    status: int


def state(pid: int) -> State | None:
    """The state of a process, None where there is none of this number."""
    try:
        # Behind the program's name, which may hold anything.
        fields = (PROC / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return State(fields[0] in "ZX", int(fields[1]), int(fields[19]), int(fields[49]))


def commands() -> Iterator[tuple[int, list[str]]]:
    """Number and command line of every process, in order."""
    for pid in sorted(int(path.name) for path in PROC.iterdir() if path.name.isdecimal()):
        try:
            words = (PROC / f"{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        yield pid, words
