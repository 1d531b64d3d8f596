"""Every `periscope` command that the documents show is one that the command line takes."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest

from periscope_client.console import COMMANDS, load

ROOT = Path(__file__).parents[1]

# In an indented block, alone or behind a pipe, a variable or another command.
LINE = re.compile(r"^    (?:.*[|&] |[A-Z_]+=\S+ )?periscope ([a-z]+ (?:.*\\\n)*.*)$", re.MULTILINE)


def documented() -> list[tuple[str, str]]:
    documents = [ROOT / "README.md", *sorted(ROOT.glob("*/*.md"))]
    return [(str(path.relative_to(ROOT)), line) for path in documents for line in LINE.findall(path.read_text())]


def test_there_are_some() -> None:
    commands = {line.split()[0] for _, line in documented()}
    assert commands == COMMANDS.keys()


@pytest.mark.parametrize(("document", "line"), documented())
def test_it_is_taken(document: str, line: str) -> None:
    name, *arguments = shlex.split(line.replace("\\\n", " "), comments=True)
    parser = argparse.ArgumentParser(prog=f"periscope {name}", exit_on_error=False)
    load(name).add_arguments(parser)
    # As a reader would leave out what may be repeated.
    parser.parse_args([word for word in arguments if word not in ("[DIR", "...]")])
