"""A row of the table of systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from periscope_testing.reference import Item, Reference

# Changes the published code as an implementation would get it wrong, for as long as the block runs.
Mistake = Callable[[Reference], AbstractContextManager[None]]


class Shape(NamedTuple):
    """Layers of each tower of a random checkpoint, the standard deviation of its weights, and its seed."""

    depth: int
    deviation: float
    seed: int

    def __str__(self) -> str:
        return f"{self.depth} layers, deviation {self.deviation}, seed {self.seed}"


@dataclass(frozen=True)
class System:
    """A retriever as it is served in tests.

    name: the name that it is served under
    recipe: the recipe that exports it
    group: systems of one group share a server, and a process of tests
    make: writes a random checkpoint into a folder that is not there yet, and returns the folder to export
    reference: the published code, loaded from such a folder
    settings: recipe fields that are set for its export
    shallow: writes a checkpoint of as few layers as there can be, for compilers and engines; None where another row of
        the same recipe stands for it
    attention: layers of attention of each of its steps that has any
    shaped: writes a checkpoint of a shape, for `make tolerances`; None as above
    published: writes one of the sizes of a published model, for `make published-shapes`, beside that model's name
    mistakes: by name, an item, and a change of the published code that must move its vectors
    excluded: checks of tests/contract that do not apply, by their function's name, each with the reason
    """

    name: str
    recipe: str
    group: str
    make: Callable[[Path], Path]
    reference: Callable[[Path], Reference]
    settings: Mapping[str, Any] = field(default_factory=dict)
    shallow: Callable[[Path], Path] | None = None
    attention: Mapping[str, int] = field(default_factory=dict)
    shaped: Callable[[Path, Shape], Path] | None = None
    published: tuple[str, Callable[[Path], object]] | None = None
    mistakes: Mapping[str, tuple[Item, Mistake]] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)


def detailed_page(width: int, height: int) -> Image.Image:
    """Return a page that is full of detail, so that each resize and each place of a visual token leaves its traces."""
    return Image.effect_mandelbrot((width, height), (-2, -1.2, 1, 1.2), 50).convert("RGB")


def with_other(**changes: object) -> Mistake:
    """Return the mistake of other attributes of the reference."""

    @contextmanager
    def change(reference: Reference) -> Iterator[None]:
        before = {name: getattr(reference, name) for name in changes}
        for name, value in changes.items():
            setattr(reference, name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(reference, name, value)

    return change
