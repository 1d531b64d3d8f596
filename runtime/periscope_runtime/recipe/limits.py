"""The part of a recipe about costs: what one item may have, and to which lengths it is padded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field


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
    `role_tokens`: by role, how many of `text_tokens` its items may have, where that is fewer.
    Raises `ValueError` for one that is not positive.
    """

    image_bytes: int
    image_pixels: int
    text_bytes: int
    text_tokens: int
    tokens: int | None = None
    role_tokens: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse limits that nothing could keep."""
        by_role = {f"role_tokens.{role}": most for role, most in self.role_tokens.items()}
        refuse(below_one({**vars(self), **by_role, "role_tokens": None}))

    def text_tokens_of(self, role: str) -> int:
        """Return how many tokens of text and prompt an item of a role may have."""
        return min(self.text_tokens, self.role_tokens.get(role, self.text_tokens))


def refuse(problems: Iterable[str]) -> None:
    """Raise `ValueError` with all problems; nothing where there are none."""
    if found := list(problems):
        raise ValueError("; ".join(found))


def below_one(numbers: Mapping[str, int | None]) -> Iterator[str]:
    """Yield the numbers that are too small to count with."""
    if wrong := [f"{name} is {number}" for name, number in numbers.items() if number is not None and number < 1]:
        yield f"{', '.join(wrong)}: it has to be 1 at least"
