"""Queries about pages, and which pages are right for a query.

A page is right when it shows every term that the query names, wherever and in whatever form it shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from periscope_demo.pages.page import Page
from periscope_demo.pages.vocabulary import FIGURES

Kind = Literal["words", "heading", "cell", "label"]

_PATTERNS = {
    "words": ("{}", "{}", "where is {}", "the {}", "page with {}"),
    "heading": ("{}", "{}", "on {}"),
    "cell": ("table with {}", "table of {}", "{} in the table"),
    "label": ("{figure} chart with {}", "{figure} chart of {}", "{} in the {figure} chart"),
}
_JOINTS = (" ", " ", " and ", " with ", " in ")


@dataclass(frozen=True)
class Query:
    """A query.

    text: as it is asked.
    terms: that it names.
    kind: of its question.
    """

    text: str
    terms: frozenset[str]
    kind: Kind

    def fits(self, page: Page) -> bool:
        """Whether the page is a right answer."""
        return self.terms <= page.terms


def make_query(generator: np.random.Generator, page: Page) -> Query:
    """Ask for a page by two to four of its words, a heading, a cell of a table, or a label of a chart."""
    if page.topics and generator.random() < 0.5:
        topic = page.topics[int(generator.integers(len(page.topics)))]
        return _phrase(generator, topic, "heading")
    words = sorted({placed.term for placed in page.words})
    count = min(int(generator.integers(2, 5)), len(words))
    return _phrase(generator, tuple(str(word) for word in generator.choice(words, count, replace=False)), "words")


def _phrase(generator: np.random.Generator, topic: Sequence[str], kind: Kind) -> Query:
    figure = topic[0] if topic[0] in FIGURES else ""
    if figure:
        kind = "cell" if figure == "table" else "label"
    named = list(topic[1:] if figure else topic)
    capital = generator.random() < 0.2
    text = named[0].capitalize() if capital else named[0]
    for word in named[1:]:
        joint = _JOINTS[int(generator.integers(len(_JOINTS)))]
        text += joint + (word.capitalize() if capital else word)
    patterns = _PATTERNS[kind]
    pattern = patterns[int(generator.integers(len(patterns)))]
    return Query(pattern.format(text, figure=figure), frozenset(topic), kind)
