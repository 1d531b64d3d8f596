"""A page: its picture, and what is where on it.

Boxes are (left, top, right, bottom) in pixels.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

# Pages have a baseline grid, as books have: every line of text stands in a row of this height, in pixels. It is also
# the side of a visual token, so that a token shows one line and never halves of two.
ROW = 28
_BASELINE = 20


@dataclass(frozen=True)
class Placed:
    """A term on a page.

    term: the word, or the words of a topic.
    box: that it covers.
    letters: the boxes of a word's letters.
    """

    term: str
    box: Box
    letters: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Page:
    """A drawn page.

    image: its pixels.
    words: the content words on it.
    figures: its tables and charts by kind.
    topics: groups of terms that belong together (a heading, a table's cell, a chart's label), for queries to name.
    """

    image: Image.Image
    words: tuple[Placed, ...]
    figures: tuple[Placed, ...]
    topics: tuple[tuple[str, ...], ...]

    @property
    def terms(self) -> frozenset[str]:
        """Every term that the page shows."""
        return frozenset(placed.term for placed in (*self.words, *self.figures))

    def file(self) -> bytes:
        """Return the picture as a PNG file, written fast."""
        file = io.BytesIO()
        self.image.save(file, "PNG", compress_level=0)
        return file.getvalue()


@dataclass
class Canvas:
    """A page in the making: draws, and remembers what it drew where.

    image: that it draws on.
    vocabulary: the content words.
    tab: words start at multiples of so many pixels.
    shift: lines stand on the baseline grid, moved by so many pixels.
    words, figures, topics: drawn so far, as in `Page`.
    """

    image: Image.Image
    vocabulary: frozenset[str]
    tab: int = 1
    shift: int = 0
    words: list[Placed] = field(default_factory=list)
    figures: list[Placed] = field(default_factory=list)
    topics: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.draw = ImageDraw.Draw(self.image)

    def start(self, x: float) -> int:
        """Return where a word starts that may not start before x."""
        return -(-int(x) // self.tab) * self.tab

    def text(self, text: str, x: float, top: float, face: ImageFont.FreeTypeFont, colour: Colour) -> float:
        """Write one word into the row that begins at `top`, note it if it is a content word, and return its end."""
        left, baseline = self.start(x), top + _BASELINE + self.shift
        self.draw.text((left, baseline), text, font=face, fill=colour, anchor="ls")
        term = text.lower()
        if term not in self.vocabulary:
            return left + face.getlength(text)
        ends = [left + face.getlength(text[:count]) for count in range(len(text) + 1)]
        high = baseline - face.size * 0.6  # a little above the height of an x
        letters = tuple((start, high, end, baseline) for start, end in pairwise(ends))
        self.words.append(Placed(term, (ends[0], high, ends[-1], baseline), letters))
        return ends[-1]

    def figure(self, kind: str, box: Box, groups: Iterable[Sequence[str]]) -> None:
        """Note a table or chart, and the groups of its words that a query could name together with its kind."""
        self.figures.append(Placed(kind, box))
        self.topics += [(kind, *(word.lower() for word in group)) for group in groups]

    def page(self) -> Page:
        """Return what was drawn."""
        return Page(self.image, tuple(self.words), tuple(self.figures), tuple(self.topics))
