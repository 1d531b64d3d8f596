"""The number of CPUs that this process may use: those it is bound to, within its container's share.

`os.cpu_count()` is the machine's number. With it a container with a limit of two CPUs on a machine of 64 would start 64
threads, and the kernel would stop all of them for most of each period.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

VARIABLE = "PERISCOPE_CPUS"
"""The environment variable that overrules what is found."""

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus(
    environment: Mapping[str, str] = os.environ, membership: Path = _MEMBERSHIP, cgroups: Path = _CGROUPS
) -> int:
    """Return how many threads can compute at the same time: `PERISCOPE_CPUS`, or the least of affinity and quota.

    Raises: ValueError when `PERISCOPE_CPUS` is no whole number above 0.
    """
    asked = environment.get(VARIABLE, "")
    if asked:
        if not asked.isdecimal() or not int(asked):
            raise ValueError(f"{VARIABLE} is {asked!r}. Set it to a whole number above 0, or unset it")
        return int(asked)
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in _quotas(membership, cgroups))]))


def limit(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return `usable_cpus()` where it is not what a library finds that counts the machine's CPUs, else None."""
    usable = usable_cpus(environment)
    return usable if environment.get(VARIABLE) or usable < (os.cpu_count() or 1) else None


def _quotas(membership: Path, cgroups: Path) -> Iterator[float]:
    """Yield the CPUs that each control group above this process is given, of both versions."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            for folder in _upwards(cgroups, path):
                yield from _ratio((folder / "cpu.max",))
        elif "cpu" in controllers.split(","):
            for mounted in ("cpu", controllers):
                for folder in _upwards(cgroups / mounted, path):
                    yield from _ratio((folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"))


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield a group's folder and those above it; inside a container the path may be one that only the host has."""
    relative = PurePosixPath(path.lstrip("/"))
    yield from (mount / folder for folder in (relative, *relative.parents) if ".." not in folder.parts)


def _ratio(files: tuple[Path, ...]) -> Iterator[float]:
    """Yield quota / period, nothing where there is no limit: "max" in version 2, -1 in version 1."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
    except (OSError, ValueError):
        return
    if quota.isdecimal() and int(quota) and int(period):
        yield int(quota) / int(period)
