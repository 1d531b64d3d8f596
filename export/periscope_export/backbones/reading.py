"""Reading a `config.json` strictly: what is missing and what the towers do not have, all of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from periscope_export.errors import ExportError

# Where a setting stands, the section itself, its name, and the values that the towers have: the first is the default.
Setting = tuple[str, Mapping[str, Any], str, tuple[Any, ...]]


def missing(values: Mapping[str, Any]) -> list[str]:
    """Return a line for each value, by the name of its place, that is None."""
    return [f"{name} is missing" for name, value in values.items() if value is None]


def unknown(settings: Iterable[Setting]) -> list[str]:
    """Return a line for each setting that the towers do not have."""
    return [
        f"{where}.{name} is {section[name]!r}, not one of {known}"
        for where, section, name, known in settings
        if section.get(name, known[0]) not in known
    ]


def refuse(family: str, problems: Iterable[str]) -> None:
    """Raise `ExportError` with all problems; do nothing where there is none."""
    if listed := "; ".join(problems):
        raise ExportError(
            f"config.json: not a {family} that can be exported: {listed}. "
            "Use the recipe of the system that this checkpoint belongs to."
        )
