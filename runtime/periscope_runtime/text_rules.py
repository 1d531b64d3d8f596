"""Rules that change a text before it enters a template, and the place that each character comes from.

N characters of the text as it is, M as it was.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from periscope_runtime.recipe.prompt import TextRule


class Traced(NamedTuple):
    """A text, and what each of its characters was: `origins_N2` int32, the code points from begin to end.

    A character that was added has its place behind the last one.
    """

    text: str
    origins_N2: npt.NDArray[np.int32]

    def spans(self, begins_T: npt.NDArray[np.int32], ends_T: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Return int32 [T, 2], what spans of the text as it is cover of it as it was; (0, 0) for empty ones."""
        spans_T2 = np.zeros((len(begins_T), 2), np.int32)
        some_T = begins_T < ends_T
        spans_T2[some_T, 0] = self.origins_N2[begins_T[some_T], 0]
        spans_T2[some_T, 1] = self.origins_N2[ends_T[some_T] - 1, 1]
        return spans_T2

    def place(self, code_point: int) -> int:
        """Return how many characters come from before a code point of the text as it was."""
        return int(np.searchsorted(self.origins_N2[:, 0], code_point))


def traced(text: str, rules: Iterable[TextRule] = ()) -> Traced:
    """Apply rules one after the other."""
    found = Traced(text, np.arange(len(text), dtype=np.int32)[:, None] + np.array([0, 1], np.int32))
    for rule in rules:
        if found.text:
            found = _RULES[rule](found, len(text))
    return found


def _drop_carriage_returns(found: Traced, length: int) -> Traced:
    kept_N = np.array([character != "\r" for character in found.text])
    return Traced(found.text.replace("\r", ""), found.origins_N2[kept_N])


def _strip(found: Traced, length: int) -> Traced:
    return _stripped(found, None)


def _strip_quotes(found: Traced, length: int) -> Traced:
    return _stripped(found, '"')


def _stripped(found: Traced, characters: str | None) -> Traced:
    begin = len(found.text) - len(found.text.lstrip(characters))
    text = found.text.strip(characters)
    return Traced(text, found.origins_N2[begin : begin + len(text)])


def _capitalise(found: Traced, length: int) -> Traced:
    # One character may become several: a sharp s.
    first = found.text[0].upper()
    origins_N2 = np.concatenate([np.repeat(found.origins_N2[:1], len(first), axis=0), found.origins_N2[1:]])
    return Traced(first + found.text[1:], origins_N2)


def _end_sentence(found: Traced, length: int) -> Traced:
    return found if found.text[-1] in ".?!" else _ended(found, length)


def _end_unless_punctuation(found: Traced, length: int) -> Traced:
    return found if unicodedata.category(found.text[-1]).startswith("P") else _ended(found, length)


def _ended(found: Traced, length: int) -> Traced:
    end_12 = np.full((1, 2), length, np.int32)
    return Traced(found.text + ".", np.concatenate([found.origins_N2, end_12]))


# Sources: `format_string` of LamRA and U-MARVEL is the first five in this order; `format_model_input` of
# Qwen3-VL-Embedding is "strip" and the last.
_RULES: Mapping[TextRule, Callable[[Traced, int], Traced]] = {
    "drop_carriage_returns": _drop_carriage_returns,
    "strip": _strip,
    "strip_quotes": _strip_quotes,
    "capitalise": _capitalise,
    "end_sentence": _end_sentence,
    "end_unless_punctuation": _end_unless_punctuation,
}
