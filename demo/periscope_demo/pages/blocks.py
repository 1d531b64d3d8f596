"""The blocks of a page: headings, paragraphs and tables. Each block draws itself and returns the rows it took.

Charts are in `charts.py`. Lengths are in pixels, heights in rows of the baseline grid. A block that does not fit draws
nothing and returns 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from periscope_demo.pages.fonts import font
from periscope_demo.pages.page import ROW, Canvas, Colour
from periscope_demo.pages.vocabulary import FILLERS


@dataclass(frozen=True)
class Style:
    """The look of a page: its type and its colours."""

    family: str
    size: int
    paper: Colour
    ink: Colour
    accent: Colour
    tints: tuple[Colour, ...]


@dataclass(frozen=True)
class Frame:
    """The room of a block.

    left, top, width: in pixels.
    rows: that are left.
    """

    left: float
    top: float
    width: float
    rows: int

    @property
    def right(self) -> float:
        """The end of the frame's lines."""
        return self.left + self.width


class WordSource:
    """Deals content words, each once a page."""

    def __init__(self, generator: np.random.Generator, words: Iterator[str]) -> None:
        self.generator = generator
        self._words = words

    def next(self) -> str:
        """Return the next content word, capitalised now and then."""
        word = next(self._words)
        return word.capitalize() if self.generator.random() < 0.25 else word


def heading(canvas: Canvas, frame: Frame, style: Style, words: WordSource) -> int:
    """One to three words in large bold type, some on a band of colour."""
    generator = words.generator
    face = font(style.family, style.size + int(generator.integers(2, 5)), bold=True)
    band = generator.random() < 0.35
    if band:
        canvas.draw.rectangle((frame.left - 4, frame.top, frame.right + 4, frame.top + ROW - 2), style.accent)
    used, x = [], frame.left
    for _ in range(int(generator.integers(1, 4))):
        word = words.next().capitalize()
        if canvas.start(x) + face.getlength(word) > frame.right:
            break
        x = canvas.text(word, x, frame.top, face, (255, 255, 255) if band else style.accent) + face.getlength(" ")
        used.append(word.lower())
    if len(used) > 1:
        canvas.topics.append(tuple(used))
    return 1 if used else 0


def paragraph(canvas: Canvas, frame: Frame, style: Style, words: WordSource) -> int:
    """Running text, content words among small ones, in wide or narrow spaces, flush left or indented."""
    generator = words.generator
    face = font(style.family, style.size, bold=generator.random() < 0.15)
    space = face.getlength(" ") * float(generator.uniform(1.0, 2.0))
    indent = float(generator.choice((0, 0, 14)))
    pending = words.next()
    rows = min(int(generator.integers(2, 5)), frame.rows)
    for row in range(rows):
        x = frame.left + (indent if row == 0 else 0)
        if canvas.start(x) + face.getlength(pending) > frame.right:
            return row  # a word wider than the column: nobody reads half a word
        while canvas.start(x) + face.getlength(pending) <= frame.right:
            x = canvas.text(pending, x, frame.top + row * ROW, face, style.ink) + space
            pending = str(generator.choice(FILLERS)) if generator.random() < 0.22 else words.next()
    return rows


def table(canvas: Canvas, frame: Frame, style: Style, words: WordSource) -> int:
    """Rows named by a word with a number in each cell, under a coloured row of words."""
    generator = words.generator
    face, bold = font(style.family, style.size), font(style.family, style.size, bold=True)
    rows = min(int(generator.integers(2, 5)), frame.rows)
    columns = 2 if frame.width < 250 else 3
    if rows < 2 or frame.width < 160:
        return 0
    pitch = frame.width / columns
    grid = tuple((channel + 255) // 2 for channel in style.accent)
    bottom = frame.top + rows * ROW - 2
    canvas.draw.rectangle((frame.left, frame.top, frame.right, frame.top + ROW), style.accent)
    names: dict[tuple[int, int], str] = {}
    for row in range(rows):
        for column in range(columns):
            x = frame.left + column * pitch + 5
            named = row == 0 or column == 0
            used = bold if row == 0 else face
            text = words.next() if named else str(int(generator.integers(10, 999)))
            if canvas.start(x) + used.getlength(text) > frame.left + (column + 1) * pitch:
                continue
            canvas.text(text, x, frame.top + row * ROW, used, (255, 255, 255) if row == 0 else style.ink)
            if named:
                names[row, column] = text
        if row:
            canvas.draw.line((frame.left, frame.top + row * ROW, frame.right, frame.top + row * ROW), grid)
    canvas.draw.rectangle((frame.left, frame.top, frame.right, bottom), outline=grid)
    # A cell is named by its row and its column.
    cells = [
        (names[row, 0], names[0, column])
        for row in range(1, rows)
        for column in range(1, columns)
        if (row, 0) in names and (0, column) in names
    ]
    canvas.figure("table", (frame.left, frame.top, frame.right, bottom), cells)
    return rows
