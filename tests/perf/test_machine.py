"""The machine and the versions that stand beside every figure."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from periscope_perf.machine import Machine, cpu_seconds, descendants, machine, memory_in_use, memory_of, slug, versions


def test_this_machine() -> None:
    found = machine()
    assert found.cpu
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory > 1 << 28
    assert slug(found.name) == found.name


@pytest.mark.parametrize(
    ("cpu", "cores", "gpus", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", 2, (), "intel-xeon-platinum-8480-2-cores"),
        ("AMD EPYC 9654 96-Core Processor", 1, ("NVIDIA L4",), "amd-epyc-9654-96-core-1-core-nvidia-l4"),
    ],
)
def test_the_name_of_a_machine_fits_a_file_name(cpu: str, cores: int, gpus: tuple[str, ...], name: str) -> None:
    assert Machine(cpu, cores, (), 1 << 30, gpus).name == name


def test_versions_of_what_is_installed() -> None:
    found = versions("numpy", "no-such-package")
    assert list(found) == ["python", "numpy"]


def test_memory_of_a_process_and_its_children() -> None:
    held = 64 << 20
    code = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', 'held = b\"x\" * {held}; print(1, flush=True); input()'],"
        " stdout=subprocess.PIPE, stdin=subprocess.PIPE); "
        "child.stdout.readline(); print(child.pid, flush=True); input(); child.communicate(b'\\n')"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert descendants(process.pid) == [child]
        assert memory_of(process.pid) > held
        process.communicate(b"\n")
    assert memory_of(process.pid) == 0


def test_memory_in_use_and_processors_taken() -> None:
    used, total = memory_in_use()
    assert 0 < used < total
    before = cpu_seconds(os.getpid())
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    assert cpu_seconds(os.getpid()) - before >= 0.15
