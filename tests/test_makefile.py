"""The first steps of `make`: ask the Python, and make a .venv anew that cannot be repaired."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MADE_ANEW = "-m venv --clear .venv"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile, with a .venv that was installed into."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "testing").mkdir()
    for name in ("pyproject.toml", "testing/pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    script(folder / ".venv" / "bin" / "python", f'exec "{sys.executable}" "$@"')
    script(folder / ".venv" / "bin" / "pip", f"# {folder}/.venv/bin/python")
    (folder / ".venv" / ".installed").touch()
    return folder


def script(path: Path, line: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return path


def python_of(path: Path, minor: int) -> Path:
    """A Python 3 of that version, as far as code can see, which makes no environment."""
    code = f"import sys; sys.version_info = (3, {minor}, 0); exec(sys.argv[2])"
    cases = f'-V) echo Python 3.{minor}.0;; -c) exec "{sys.executable}" -c "{code}" "$@";; *) echo asked for "$@";;'
    return script(path, f"case $1 in {cases} esac")


def make(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    # Without what a make around this test hands down.
    environment = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(
        ["make", *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_another_python_is_refused_before_there_is_an_environment(checkout: Path, tmp_path: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    old, new = python_of(tmp_path / "old", 9), python_of(tmp_path / "new", 13)
    for python, said in ((old, "Python 3.9.0"), (new, "Python 3.13.0"), ("python3.99", "not found")):
        done = make(checkout, "demo", f"PYTHON={python}")
        assert done.returncode == 2
        assert f"make: {python} is not there, or not Python 3.10, 3.11 or 3.12 (" in done.stdout
        assert said in done.stdout
        assert "make PYTHON=python3.11 demo" in done.stdout
        assert not (checkout / ".venv").exists()
    for minor in (10, 11, 12):
        done = make(checkout, "venv", f"PYTHON={python_of(tmp_path / str(minor), minor)}")
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"asked for {MADE_ANEW}")


def test_an_environment_that_is_sound_is_kept(checkout: Path) -> None:
    done = make(checkout, "-n", "demo", "PYTHON=python3.99")
    assert done.stdout == ".venv/bin/python -m periscope_demo\n"
    (checkout / ".venv" / ".installed").unlink()
    stdout = make(checkout, "-n", "demo", "PYTHON=python3.99").stdout
    assert "-m pip install -c constraints.txt -e '.[dev]' -e testing" in stdout
    assert MADE_ANEW not in stdout


@pytest.mark.parametrize("harm", ["none", "half made", "without its Python", "of another Python", "moved"])
def test_an_environment_that_cannot_be_repaired_is_made_anew(checkout: Path, harm: str) -> None:
    if harm == "none":
        shutil.rmtree(checkout / ".venv")
    elif harm == "half made":
        (checkout / ".venv" / "bin" / "pip").unlink()
    elif harm == "without its Python":
        (checkout / ".venv" / "bin" / "python").unlink()
    elif harm == "of another Python":
        script(checkout / ".venv" / "bin" / "python", "exit 1")
    else:
        checkout = checkout.rename(checkout.with_name("moved"))
    stdout = make(checkout, "-n", "demo", f"PYTHON={sys.executable}").stdout
    assert f"{sys.executable} {MADE_ANEW}" in stdout
    assert "-m pip install -c constraints.txt -e '.[dev]' -e testing" in stdout


def test_hooks_are_the_checks_of_lint(checkout: Path) -> None:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    commands = [make(checkout, "-n", *hook["entry"].split()[1:]).stdout for hook in local["hooks"]]
    assert all(commands)
    assert "".join(commands) == make(checkout, "-n", "lint").stdout
    assert all(hook["entry"].startswith("make lint/") for hook in local["hooks"])
