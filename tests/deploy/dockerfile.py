"""The Dockerfile, read far enough to hold it against the rest of the repository."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
TARGETS = {"gpu": "3.12", "cpu": "3.11"}
"""The images, and the Python of each."""


@dataclass(frozen=True)
class Stage:
    """The instructions between one FROM and the next."""

    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def arguments(self, word: str) -> list[str]:
        """The rest of every instruction that begins with `word`."""
        return [rest for name, rest in self.instructions if name == word]

    def command(self, word: str) -> list[str]:
        """The words of the last CMD or ENTRYPOINT."""
        words: list[str] = json.loads(self.arguments(word)[-1])
        return words

    def health_check(self) -> list[str]:
        """The words of the HEALTHCHECK's command."""
        (rest,) = self.arguments("HEALTHCHECK")
        words: list[str] = json.loads(rest.partition(" CMD ")[2])
        return words

    def sources(self) -> list[str]:
        """The files and folders that it takes from the repository."""
        copied = [[word for word in rest.split() if not word.startswith("--")] for rest in self.arguments("COPY")]
        mounts = re.findall(r"--mount=type=bind,source=([^,\s]+)", " ".join(self.arguments("RUN")))
        return [*(source for words in copied for source in words[:-1]), *mounts]


def read() -> tuple[dict[str, str], dict[str, Stage]]:
    """The defaults of the build arguments before the first stage, and the stages by name."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    defaults: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(base)
        elif word and stages:
            list(stages.values())[-1].instructions.append((word, rest.strip()))
        elif word:
            name, _, defaults[name] = rest.partition("=")
    return defaults, stages


def requirements(file: str, python: str) -> dict[str, Requirement]:
    """The lines of a requirements file that count for a Python, by normalised name."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    read = [requirement for requirement in map(Requirement, lines) if applies(requirement, python)]
    return {normalised(requirement.name): requirement for requirement in read}


def applies(requirement: Requirement, python: str, extra: str = "") -> bool:
    """Whether a requirement counts for a Python, and for an extra of what requires it."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": extra}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def normalised(name: str) -> str:
    """The name that all spellings of a package share."""
    return re.sub(r"[-_.]+", "-", name).lower()
