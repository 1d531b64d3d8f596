"""A row of the table of systems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from periscope_testing.reference import Item, Reference

# Changes the published code as an implementation would get it wrong.
Mistake = Callable[[Reference], None]


@dataclass(frozen=True)
class System:
    """A retriever as it is served in tests.

    name: the name that it is served under
    recipe: the recipe that exports it
    group: systems of one group share a server, and a process of tests
    make: writes a random checkpoint into a folder that is not there yet, and returns the folder to export
    reference: the published code, loaded from such a folder
    shallow: writes a checkpoint of as few layers as there can be, for compilers and engines; None where another row of
        the same recipe stands for it
    mistakes: by name, an item, and a change of the published code that must move its vectors
    excluded: checks of tests/contract that do not apply, by their function's name, each with the reason
    """

    name: str
    recipe: str
    group: str
    make: Callable[[Path], Path]
    reference: Callable[[Path], Reference]
    shallow: Callable[[Path], Path] | None = None
    mistakes: Mapping[str, tuple[Item, Mistake]] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)


def with_other(**changes: object) -> Mistake:
    """Return the mistake of other attributes of the reference."""

    def change(reference: Reference) -> None:
        for name, value in changes.items():
            assert hasattr(reference, name), name
            setattr(reference, name, value)

    return change
