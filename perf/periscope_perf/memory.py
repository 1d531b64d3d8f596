"""The memory of other processes, sampled while they run. Linux only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_INTERVAL = 0.05


class PeakMemory:
    """Largest memory of some processes together while the block runs, in bytes; `processes` gives their ids each time.

    `anonymous` is what the system can only keep; `resident` counts pages of files too, which it may drop at any time.
    """

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self.anonymous = self.resident = 0
        self._processes = processes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(_INTERVAL):
            found = [memory(process) for process in self._processes()]
            self.anonymous = max(self.anonymous, sum(anonymous for anonymous, _ in found))
            self.resident = max(self.resident, sum(resident for _, resident in found))


def memory(process: int) -> tuple[int, int]:
    """Return anonymous and resident memory of a process in bytes, zeros for one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    fields = dict(line.split(":", 1) for line in lines)
    # A process that has ended and was not waited for has no memory.
    anonymous, resident = (int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "VmRSS"))
    return anonymous, resident


def descendants(process: int) -> Iterator[int]:
    """Yield the ids of all processes below one."""
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)
