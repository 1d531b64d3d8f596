"""`optimum-cli export triton` is `periscope export`: the same flags, repository, messages and statuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from periscope_export.fidelity.record import file_digests
from periscope_testing.jina_clip.checkpoint import JinaClipSizes, make_jina_clip

RECIPE = "jina_clip_v1"
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PERISCOPE: list[str | Path] = [BIN / "periscope", "export"]
OPTIMUM: list[str | Path] = [BIN / "optimum-cli", "export", "triton"]

# Optimum's command line where a package of ours is missing: importing it fails as if it were not installed.
BARE = """
import sys
sys.modules["pydantic"] = None
from optimum.commands.optimum_cli import main
main()
"""


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    # One thread: on a busy machine torch's library takes fewer than it might, and then sums end in other digits.
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=one_thread)


def both(*arguments: str | Path) -> list[subprocess.CompletedProcess[str]]:
    """The answers of `periscope export` and Optimum's command; both names are the former's."""
    answers = [call(*command, *arguments) for command in (PERISCOPE, OPTIMUM)]
    for done in answers:
        done.stderr = done.stderr.replace("optimum-cli export triton", "periscope export")
    return answers


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Of all systems the one with the fewest graphs.
    return make_jina_clip(tmp_path_factory.mktemp("made") / "checkpoint", JinaClipSizes(vision_layers=1, layers=1))


def test_the_flags_are_those_of_periscope_export() -> None:
    ours, optimums = both("--help")
    assert (ours.returncode, optimums.returncode) == (0, 0)
    flags = [re.findall(r"--[a-z]+|\{.*?\}|^  checkpoint", done.stdout, re.MULTILINE) for done in (ours, optimums)]
    assert "--recipe" in flags[0]
    assert flags[0] == flags[1]


def test_optimum_lists_the_command() -> None:
    done = call(BIN / "optimum-cli", "export", "--help")
    assert done.returncode == 0
    assert "triton    turn a checkpoint into a Triton model repository" in done.stdout
    assert done.stderr == ""


def test_the_repository_is_that_of_periscope_export(checkpoint: Path, tmp_path: Path) -> None:
    digests, reports, progress = [], [], []
    for name, command in {"periscope": PERISCOPE, "optimum": OPTIMUM}.items():
        repository = tmp_path / name
        done = call(*command, checkpoint, "--recipe", RECIPE, "--output", repository)
        assert done.returncode == 0, done.stderr
        report = json.loads((repository / "fidelity.json").read_text())
        assert report.pop("measured_at")
        digests.append(file_digests(repository))
        reports.append(report)
        progress.append(re.sub(r"^\[.*? s\]", "", done.stderr, flags=re.MULTILINE).replace(str(repository), "DIR"))
    assert digests[0] == digests[1]
    assert reports[0] == reports[1]
    assert progress[0] == progress[1]


def test_wrong_usage_is_argparses_error(checkpoint: Path, tmp_path: Path) -> None:
    ours, optimums = both(checkpoint, "--recipe", "wrong", "--output", tmp_path / "repository")
    assert (ours.returncode, optimums.returncode) == (2, 2)
    assert "argument --recipe: there is no recipe 'wrong'. Use one of: " in optimums.stderr
    assert ours.stderr.splitlines()[-1] == optimums.stderr.splitlines()[-1]


def test_an_export_error_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    ours, optimums = both(checkpoint, "--recipe", RECIPE, "--output", tmp_path)
    assert (ours.returncode, optimums.returncode) == (1, 1)
    assert "exists and is not empty" in optimums.stderr
    assert ours.stderr == optimums.stderr


def test_an_interrupted_export_is_status_130(checkpoint: Path, tmp_path: Path) -> None:
    command = [*OPTIMUM, checkpoint, "--recipe", RECIPE, "--output", tmp_path / "repository"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "writing the graph" in line:
                process.send_signal(signal.SIGINT)
                break
        assert "nothing was written" in process.stderr.read()
        assert process.wait() == 130
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_only_this_command_fails() -> None:
    done = call(sys.executable, "-c", BARE, "export", "triton", "x", "--recipe", "colqwen2")
    assert done.returncode == 1
    assert "pip install '.[export]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert call(sys.executable, "-c", BARE, "export", "--help").returncode == 0


def test_optimums_packages_are_left_open() -> None:
    """An `__init__.py` here would hide what Optimum and its other extensions put beside this."""
    assert [path.name for path in (ROOT / "clients" / "optimum").rglob("*.py")] == ["register_periscope.py"]
