"""The prefixes that prompts share, for each instruction that has a name: a language model may keep what it makes of
them.

B rows, T tokens, J tokens of a prefix.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]

PREFIXES_FILE = "prefixes.json"


def read_prefixes(folder: Path) -> list[Ids] | None:
    """Return the prefixes of which the language model keeps something, int32 [J] each; None where it keeps nothing.

    They were written together with the graph that keeps them, and are never computed anew: another version might find
    others.
    """
    file = folder / PREFIXES_FILE
    if not file.is_file():
        return None
    return [np.array(ids, np.int32) for ids in json.loads(file.read_text(encoding="utf-8"))]


def shared_prefix(prompts: Iterable[Sequence[int]]) -> Ids:
    """Return the ids with which all prompts begin; int32 [J]."""
    alike = takewhile(lambda ids: len(set(ids)) == 1, zip(*prompts, strict=False))
    return np.array([ids[0] for ids in alike], np.int32)


def prefix_index(rows: Sequence[Ids], prefixes: Sequence[Ids]) -> Ids:
    """Return with which tokens each row begins, of all prefixes one after the other; int32 [B, J].

    Of several prefixes it is the longest. Rows are int32 [T], up to images of their own. [B, 0] where one begins with
    no prefix, or two with prefixes of different lengths.
    """
    found = [_begins(row_T, prefixes) for row_T in rows]
    lengths = {len(index_J) for index_J in found}
    return np.stack(found) if len(lengths) == 1 else np.zeros((len(rows), 0), np.int32)


def _begins(row_T: Ids, prefixes: Sequence[Ids]) -> Ids:
    first, found = 0, np.zeros(0, np.int32)
    for prefix_J in prefixes:
        if len(prefix_J) > len(found) and np.array_equal(row_T[: len(prefix_J)], prefix_J):
            found = np.arange(first, first + len(prefix_J), dtype=np.int32)
        first += len(prefix_J)
    return found
