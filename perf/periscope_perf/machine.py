"""The conditions of a figure: the machine, and the versions of everything that took part.

Linux only: read from /proc, so that no environment of a peer needs a package for it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

# Instructions that decide which matrix kernels a library takes.
_TELLING = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8")

_PROC = Path("/proc")


@dataclass(frozen=True)
class Machine:
    """A machine.

    cpu: the model of its processor.
    cores: those that this process may use.
    instructions: those of its processor that decide which matrix kernels a library takes.
    memory: in bytes.
    gpus: their names.
    """

    cpu: str
    cores: int
    instructions: tuple[str, ...]
    memory: int
    gpus: tuple[str, ...]

    @property
    def name(self) -> str:
        """A short name of the machine's kind, fit for a file name: `intel-xeon-2-cores`."""
        words = re.sub(r"\(R\)|\(TM\)|\bCPU\b|\bProcessor\b|@.*", " ", self.cpu)
        parts = [words, f"{self.cores}-core{'s' if self.cores > 1 else ''}", *self.gpus[:1]]
        return slug(" ".join(parts))


def machine() -> Machine:
    """Describe this machine."""
    text = (_PROC / "cpuinfo").read_text(encoding="utf-8")
    flags = set(_field(text, "flags").split())
    return Machine(
        cpu=_field(text, "model name") or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        instructions=tuple(name for name in _TELLING if name in flags),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        gpus=_gpus(),
    )


def slug(text: str) -> str:
    """Return the text as part of a file name: small letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and of those packages that this environment has, by name."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The answer of `git describe` for the source this runs from; "" where it runs from no checkout."""
    if shutil.which("git") is None:
        return ""
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--tags"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def memory_of(pid: int) -> int:
    """Bytes of memory that a process and its descendants hold: pages that several share count once between them."""
    return sum(_proportional(member) for member in (pid, *descendants(pid)))


def memory_in_use() -> tuple[int, int]:
    """Bytes of this machine's memory that are taken, without what the system can drop at once, and of all of it."""
    text = (_PROC / "meminfo").read_text(encoding="utf-8")
    total, available = (int(_field(text, name).split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    return total - available, total


def cpu_seconds(pid: int) -> float:
    """Seconds of a processor that a process and its descendants have taken, those that have ended left out."""
    return sum(map(_cpu_seconds, (pid, *descendants(pid))))


def descendants(pid: int) -> list[int]:
    """Process ids of the children of a process, and of theirs."""
    children: dict[int, list[int]] = {}
    for folder in _PROC.iterdir():
        if folder.name.isdecimal():
            try:
                # The name in parentheses may hold spaces and parentheses; state and parent follow it.
                parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(folder.name))
    return list(_below(pid, children))


def _below(pid: int, children: dict[int, list[int]]) -> Iterable[int]:
    for child in children.get(pid, []):
        yield child
        yield from _below(child, children)


def _cpu_seconds(pid: int) -> float:
    try:
        # After the name in parentheses: user and system time are the twelfth and the thirteenth.
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _proportional(pid: int) -> int:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
        return 0
    return int(_field(text, "Pss").split()[0]) * 1024


def _field(text: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip()) if done.returncode == 0 else ()
