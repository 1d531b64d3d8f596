"""The number of threads that preparation and the engines take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from periscope_runtime.cpus import VARIABLE, limit, usable_cpus

ALL = len(os.sched_getaffinity(0))
BOUND = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from periscope_runtime.cpus import usable_cpus
print(usable_cpus({}))
"""


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        # The group of the process has no limit, one above it has.
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 1),
        ("0::/a\n", {"a/cpu.max": "max 100000\n"}, ALL),
        ("0::/../outside\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/a\n", {"a/cpu.max": "9900000 100000\n"}, min(ALL, 99)),
        # Version 1; the path is the host's, and the container sees its own group as the root.
        ("4:cpu,cpuacct:/docker/1\n", {"cpu/cpu.cfs_quota_us": "20000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ("4:cpu:/d\n", {"cpu/d/cpu.cfs_quota_us": "-1\n", "cpu/d/cpu.cfs_period_us": "100000\n"}, ALL),
        ("4:cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "20000\n", "cpu/cpu.cfs_period_us": "100000\n"}, ALL),
        ("0::/a\n", {"a/cpu.max": "nonsense"}, ALL),
    ],
)
def test_what_a_container_is_given(tmp_path: Path, groups: str, files: dict[str, str], cpus: int) -> None:
    write(tmp_path, {"membership": groups, **{f"cgroup/{name}": content for name, content in files.items()}})
    assert usable_cpus({}, tmp_path / "membership", tmp_path / "cgroup") == cpus


def test_parts_of_a_cpu_are_rounded_up(tmp_path: Path) -> None:
    write(tmp_path, {"membership": "0::/\n", "cgroup/cpu.max": "110000 100000\n"})
    assert usable_cpus({}, tmp_path / "membership", tmp_path / "cgroup") == min(ALL, 2)


def test_without_control_groups(tmp_path: Path) -> None:
    assert usable_cpus({}, tmp_path / "none", tmp_path / "none") == ALL


def test_what_a_process_is_bound_to() -> None:
    done = subprocess.run([sys.executable, "-c", BOUND], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "1\n"


def test_the_variable_overrules() -> None:
    assert usable_cpus({VARIABLE: "77"}) == limit({VARIABLE: "77"}) == 77
    for wrong in ("0", "-1", "two", "1.5"):
        with pytest.raises(ValueError, match=r"PERISCOPE_CPUS is .*\. Set it to a whole number above 0"):
            usable_cpus({VARIABLE: wrong})
