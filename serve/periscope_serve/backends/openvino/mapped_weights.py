"""Giving back the memory of weights that were read once and are never read again."""

from __future__ import annotations

import ctypes
from pathlib import Path

_MADV_DONTNEED = 4


def release(file: Path) -> None:
    """Let go of the pages of a file that this process has mapped; whoever reads them again gets them from the file.

    OpenVINO maps the weights of a graph, and copies those of matrix products, in the order and the type in which it
    reads them, when the first request needs them. Nothing reads the originals after that, but they would stay in the
    memory of the process. Does nothing where there is no /proc.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    name = str(file.resolve())
    libc = ctypes.CDLL(None, use_errno=True)
    for line in maps.read_text().splitlines():
        # "from-to permissions offset device inode file"; a mapping that may be written is not the file's alone.
        span, permissions, *_, mapped = line.split(maxsplit=5)
        if mapped == name and "w" not in permissions:
            begin, end = (int(address, 16) for address in span.split("-"))
            libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)
