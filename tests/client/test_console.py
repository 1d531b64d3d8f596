"""The `periscope` command before any subcommand's own work, and after it: version, extras, pipes, names, Ctrl-C."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from periscope_client import console

PROGRAM = "import sys; from periscope_client.console import main; sys.exit(main())"


def replace_commands(monkeypatch: pytest.MonkeyPatch, run: object) -> None:
    """All subcommands do the same, without an argument."""
    monkeypatch.setattr(console, "load", lambda name: SimpleNamespace(add_arguments=lambda parser: None, run=run))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        console.main(["--version"])
    assert caught.value.code == 0
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.*)"$', project, re.MULTILINE)
    assert version
    assert capsys.readouterr().out == f"periscope {version[1]}\n"


@pytest.mark.parametrize("arguments", ["recipes", "--help", "export --help"])
def test_a_closed_pipe_ends_quietly(arguments: str) -> None:
    """As `periscope recipes | head -1` does, with a reader that has gone before anything is written."""
    command = [sys.executable, "-c", PROGRAM, *arguments.split()]
    # argparse drops the errors of what it writes, so only what is still buffered at the end tells.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no disk that is always full")
def test_a_full_disk_is_said() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "recipes"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 1
    assert re.fullmatch(rb"periscope recipes: .*No space left on device. Make room .*\n", done.stderr), done.stderr


def test_interrupted_in_any_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    replace_commands(monkeypatch, interrupt)
    for name in console.COMMANDS:
        assert console.main([name]) == 130
        assert capsys.readouterr().err == f"periscope {name}: interrupted\n"

    def interrupted_import(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "load", interrupted_import)
    assert console.main(["verify"]) == 130
    assert capsys.readouterr().err == "periscope verify: interrupted\n"


def test_a_name_that_is_not_utf8_prints(tmp_path: Path) -> None:
    """As the bytes that it is; a character that the terminal's encoding lacks as an escape."""
    program = """if True:
    import sys
    from types import SimpleNamespace
    from periscope_client import console
    run = lambda args: print("caf\\udce9.png caf\\u00e9 \\u2026") or 0
    console.load = lambda name: SimpleNamespace(add_arguments=lambda parser: None, run=run)
    sys.exit(console.main(["recipes"]))"""
    for encoding, printed in (("utf-8", "caf\udce9.png café …"), ("latin-1", "café.png café \\u2026")):
        environment = {"PYTHONIOENCODING": encoding, "PATH": ""}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, env=environment)
        assert done.stdout.decode(encoding, "surrogateescape") == printed + "\n"


@pytest.fixture
def handlers() -> Iterator[None]:
    """`periscope serve` takes the process's signals for itself: the tests after it get theirs back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_no_word_is_said_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Errors name their step, and a step may be called like its command."""
    (tmp_path / "notes.txt").touch()
    folder = str(tmp_path)
    for arguments in (
        ["verify", folder],
        ["export", folder, "--recipe", "colqwen2", "--output", folder],
        ["export", folder, "--recipe", "colqwen2", "--output", folder, "--timing-cache", f"{folder}/none"],
        ["export", folder, "--recipe", "colqwen2", "--output", f"{folder}/new"],
        ["lint", folder],
        ["lint", f"{folder}/none"],
        ["serve", f"{folder}/none"],
        ["bench", folder],
    ):
        assert console.main(arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith(f"periscope {arguments[0]}: "), err
        assert not re.search(r"\b(\w+):? \1\b", err), err


def test_help_of_a_command_whose_extra_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'yaml'", name="yaml")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(SystemExit) as caught:
        console.main(["bench", "--help"])
    assert caught.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "usage: periscope bench" in out
    assert "measure a model repository with NVIDIA's perf_analyzer" in out
    assert "pip install '.[perf]'" in out
    assert console.main(["bench", "models"]) == 1
    assert "periscope bench: the package 'yaml' is not installed" in capsys.readouterr().err


def test_extras_that_are_named_exist() -> None:
    extras = importlib.metadata.metadata(console.DISTRIBUTION).get_all("Provides-Extra")
    assert {command.extra for command in console.COMMANDS.values()} - {None} <= set(extras or ())
