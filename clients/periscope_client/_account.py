"""The account of items that have no result: every one is found in it, and no reason is told twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from periscope_client._errors import ItemError

# So many are called by their names; of more, the first and the last, or the first few.
FEW = 3

# Requests that waited for one server gave up at moments that differ by a little.
_TRIED = re.compile(r" \(\d+ attempts? in [\d.]+ s\)$")


def by_reason(errors: Iterable[ItemError]) -> list[list[ItemError]]:
    """Errors in the order of their items, those of one reason together."""
    groups: dict[tuple[type, str], list[ItemError]] = {}
    for error in sorted(errors, key=lambda error: error.index):
        cause = error.cause
        groups.setdefault((type(cause), _TRIED.sub("", cause.reason)), []).append(error)
    return list(groups.values())


def called(errors: Sequence[ItemError], label: Callable[[ItemError], str]) -> str:
    """Names of the items of some errors, in order: each, from where to where, or the first few and how many.

    >>> from periscope_client import InvalidInput, ItemError
    >>> errors = [ItemError(place, f"{place}.png", InvalidInput("bad")) for place in range(9)]
    >>> called(errors[:2], lambda error: error.name)
    '0.png, 1.png'
    >>> called(errors, lambda error: error.name)
    '0.png to 8.png (9 items)'
    >>> called(errors[::2], lambda error: error.name)
    '0.png, 2.png, 4.png and 2 more (5 items)'
    """
    if len(errors) <= FEW:
        return ", ".join(map(label, errors))
    count = f"({len(errors)} items)"
    if errors[-1].index - errors[0].index == len(errors) - 1:
        return f"{label(errors[0])} to {label(errors[-1])} {count}"
    return f"{', '.join(map(label, errors[:FEW]))} and {len(errors) - FEW} more {count}"
