"""Leftovers of a server: shared memory, processes and folders that carry a pid of ours."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from periscope_serve.shared_memory import SHARED_MEMORY


def shared_memory(pid: int | None = None) -> list[Path]:
    """The regions of servers started by `pid`, or by this process."""
    return list(SHARED_MEMORY.glob(f"periscope_{os.getpid() if pid is None else pid}_*"))


def descendants(pid: int) -> list[psutil.Process]:
    """Every process below `pid`, to be asked later whether it still runs."""
    return psutil.Process(pid).children(recursive=True)


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run."""
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
