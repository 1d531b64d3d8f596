"""Installing perf_analyzer: every step that can fail names itself and what to do."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from periscope_perf import install
from periscope_perf.errors import MissingToolError


class Machine:
    """A machine whose tools answer as told; every command that is run is written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failing = ""
        self.member = ""
        self.commands: list[str] = []

    def run(self, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        self.commands.append(" ".join(command))
        if self.failing and self.failing in self.commands[-1]:
            return subprocess.CompletedProcess(command, 1, "", "a line\nno route to host\n")
        if "update" in command:
            self.failing = ""
        elif "apt-get" in command:
            (folder / "libb64-0d_1.2_amd64.deb").touch()
        elif "dpkg-deb" in command:
            found = Path(command[-1]) / "usr/lib/libb64.so.0d"
            found.parent.mkdir(parents=True)
            found.write_text("b64")
        else:
            requirement = command[-1]
            wheel = Path(command[command.index("--dest") + 1]) / f"{requirement}.whl"
            wheel.parent.mkdir(parents=True)
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr(self.member or install._WHEELS[requirement][0], requirement)
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / ".perf")
    monkeypatch.setattr(install, "_run", machine.run)
    monkeypatch.setattr(install, "_loads", lambda library: False)
    monkeypatch.setattr(install, "probe", lambda folder: None)
    monkeypatch.setattr("shutil.which", lambda tool: f"/usr/bin/{tool}")
    return machine


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_everything_lies_where_it_is_looked_for(machine: Machine) -> None:
    install.install(machine.folder)
    assert files(machine.folder) == {
        "bin/perf_analyzer": "tritonclient==2.50.0",
        "lib/libcudart.so.12": "nvidia-cuda-runtime-cu12==12.9.79",
        "lib/libb64.so.0d": "b64",
    }
    assert (machine.folder / "bin/perf_analyzer").stat().st_mode & 0o111
    ran = len(machine.commands)
    install.install(machine.folder)
    assert len(machine.commands) == ran  # nothing is fetched twice


def test_a_library_that_the_machine_has_is_not_fetched(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_loads", lambda library: library == "libb64.so.0d")
    install.install(machine.folder)
    assert not any("apt-get" in command for command in machine.commands)
    assert "lib/libb64.so.0d" not in files(machine.folder)


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (
            "tritonclient",
            r"download: pip could not get tritonclient==2.50.0 \(no route to host\). Let this",
        ),
        ("cuda-runtime", "download: pip could not get nvidia-cuda-runtime-cu12"),
        ("apt-get", r"libb64: apt-get could not download libb64-0d \(no route to host\). Install the"),
        ("dpkg-deb", "libb64: libb64-0d_1.2_amd64.deb could not be unpacked"),
    ],
)
def test_a_step_that_fails(machine: Machine, failing: str, message: str) -> None:
    machine.failing = failing
    with pytest.raises(MissingToolError, match=message):
        install.install(machine.folder)
    assert "bin/perf_analyzer" not in files(machine.folder)


def test_a_machine_without_a_list_of_packages(machine: Machine) -> None:
    machine.failing = "APT::Sandbox::User=root download"
    install.install(machine.folder)
    assert files(machine.folder)["lib/libb64.so.0d"] == "b64"
    assert [command.split()[-1] for command in machine.commands[:3]] == ["libb64-0d", "update", "libb64-0d"]


def test_a_machine_without_apt(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda tool: None)
    message = "libb64: this machine neither has libb64.so.0d nor apt-get to fetch it. Install the library libb64"
    with pytest.raises(MissingToolError, match=message):
        install.install(machine.folder)


def test_a_wheel_without_the_binary(machine: Machine) -> None:
    machine.member = "something/else"
    with pytest.raises(MissingToolError, match=r"unpack: .*\.whl holds no nvidia/cuda_runtime/.* Delete pip's cache"):
        install.install(machine.folder)


def test_a_binary_that_does_not_start(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "probe", lambda folder: "Exec format error")
    monkeypatch.setattr("sys.argv", ["install", "--into", str(machine.folder)])
    assert install.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("perf_analyzer: run: ")
    assert "does not start (Exec format error). It is for Linux on x86-64 with glibc" in error
