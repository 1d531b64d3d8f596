"""The part of a recipe about costs: what one item may have, and to which lengths it is padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Buckets:
    """Lengths are padded up to multiples of these, so that the server's batcher finds equal shapes.

    Raises `ValueError` for one that is not positive.
    """

    patches: int
    page_tokens: int
    text_tokens: int

    def __post_init__(self) -> None:
        """Refuse what nothing is a multiple of."""
        refuse(below_one(vars(self)))


@dataclass(frozen=True)
class Limits:
    """Bounds of what one item may cost. Bytes and pixels are checked before anything is decoded.

    `text_tokens` are those of text and prompt, `tokens` these and the visual ones together (None: no further limit).
    Raises `ValueError` for one that is not positive.
    """

    image_bytes: int
    image_pixels: int
    text_bytes: int
    text_tokens: int
    tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that nothing could keep."""
        refuse(below_one(vars(self)))


def refuse(problems: Iterable[str]) -> None:
    """Raise `ValueError` with all problems; nothing where there are none."""
    if found := list(problems):
        raise ValueError("; ".join(found))


def below_one(numbers: Mapping[str, int | None]) -> Iterator[str]:
    """Yield the numbers that are too small to count with."""
    if wrong := [f"{name} is {number}" for name, number in numbers.items() if number is not None and number < 1]:
        yield f"{', '.join(wrong)}: it has to be 1 at least"
