"""Prompt templates: literal text with fields, and marks around tokens that are pooled, or are not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

FIELDS = ("text", "images", "video", "instruction", "augmentation", "query", "document", "seconds", "constant_image")
MARKS = ("pooled", "unpooled")
_PART = re.compile(rf"\{{({'|'.join((*FIELDS, *MARKS, *(f'/{mark}' for mark in MARKS)))})\}}")


class Span(NamedTuple):
    """The extent of a mark: code points `begin .. end` of a prompt."""

    mark: str
    begin: int
    end: int

    def at(self, begin: int) -> Span:
        """Return it where its text begins at another code point."""
        return self._replace(begin=self.begin + begin, end=self.end + begin)


class Filled(NamedTuple):
    """A filled template: at which code point each of its fields begins, and what its marks enclose."""

    prompt: str
    begins: Mapping[str, int] = {}
    spans: Sequence[Span] = ()


def joined(parts: Iterable[Filled]) -> Filled:
    """Return filled templates one after the other, with what their marks enclose."""
    prompt, spans = "", list[Span]()
    for part in parts:
        spans += [span.at(len(prompt)) for span in part.spans]
        prompt += part.prompt
    return Filled(prompt, spans=spans)


class Template:
    """Literal text with fields such as `{text}` and marks such as `{pooled}`; braces around any other word are literal.

    A mark leaves nothing in the prompt.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._parts = _PART.split(source)

    def count(self, word: str) -> int:
        """The number of times that a field, or a mark, occurs."""
        return self._parts[1::2].count(word)

    def marks(self, mark: str) -> list[str]:
        """Return where a mark opens and closes, in order."""
        return [part for part in self._parts[1::2] if part in (mark, f"/{mark}")]

    def fill(self, values: Mapping[str, Filled]) -> Filled:
        """Return the text with every field replaced. Raises `KeyError` for a field without a value."""
        prompt, begins, spans, opened = "", dict[str, int](), list[Span](), dict[str, int]()
        for index, part in enumerate(self._parts):
            if not index % 2:
                prompt += part
            elif part in MARKS:
                opened[part] = len(prompt)
            elif part[0] == "/":
                spans.append(Span(part[1:], opened.pop(part[1:]), len(prompt)))
            else:
                begins[part] = len(prompt)
                spans += [span.at(len(prompt)) for span in values[part].spans]
                prompt += values[part].prompt
        return Filled(prompt, begins, spans)
