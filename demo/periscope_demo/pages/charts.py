"""Charts with words for labels: bars, lines and pies. Each draws itself and returns the rows it took.

As in `blocks.py`: lengths in pixels, heights in rows of the baseline grid, 0 rows where a chart does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from periscope_demo.pages.blocks import Frame, Style, WordSource
from periscope_demo.pages.fonts import font
from periscope_demo.pages.page import ROW, Canvas


def bars(canvas: Canvas, frame: Frame, style: Style, words: WordSource) -> int:
    """Lying bars, each with its word on the left."""
    generator = words.generator
    face = font(style.family, style.size)
    rows = min(int(generator.integers(2, 5)), frame.rows)
    labels = [words.next() for _ in range(rows)]
    first = max((canvas.start(frame.left) + face.getlength(label) for label in labels), default=0) + 6
    if rows < 2 or first > frame.left + frame.width * 0.75:
        return 0
    for row, label in enumerate(labels):
        y = frame.top + row * ROW
        canvas.text(label, frame.left, y, face, style.ink)
        length = (frame.right - first) * float(generator.uniform(0.25, 1.0))
        canvas.draw.rectangle((first, y + 5, first + length, y + ROW - 4), style.tints[row % len(style.tints)])
    bottom = frame.top + rows * ROW
    canvas.draw.line((first, frame.top, first, bottom), style.ink)
    canvas.figure("bar", (first, frame.top, frame.right, bottom), pairs(labels))
    return rows


def lines(canvas: Canvas, frame: Frame, style: Style, words: WordSource) -> int:
    """One or two curves over an axis, with words under the axis."""
    generator = words.generator
    face = font(style.family, style.size)
    rows = int(generator.integers(3, 5))
    if rows > frame.rows:
        return 0
    bottom = frame.top + (rows - 1) * ROW - 2
    canvas.draw.line((frame.left + 2, frame.top, frame.left + 2, bottom, frame.right, bottom), style.ink)
    for number in range(int(generator.integers(1, 3))):
        x_N = np.linspace(frame.left + 6, frame.right - 4, 6)
        y_N = generator.uniform(frame.top + 4, bottom - 6, 6)
        points = [(float(x), float(y)) for x, y in zip(x_N, y_N, strict=True)]
        tint = style.tints[number % len(style.tints)]
        canvas.draw.line(points, tint, width=2)
        for x, y in points:
            canvas.draw.ellipse((x - 2, y - 2, x + 2, y + 2), tint)
    labels, x = [], frame.left + 4
    for _ in range(3):
        label = words.next()
        if canvas.start(x) + face.getlength(label) > frame.right:
            break
        x = canvas.text(label, x, frame.top + (rows - 1) * ROW, face, style.ink) + 14
        labels.append(label)
    canvas.figure("line", (frame.left, frame.top, frame.right, bottom), pairs(labels))
    return rows


def pie(canvas: Canvas, frame: Frame, style: Style, words: WordSource) -> int:
    """A pie with a legend of words beside it."""
    generator = words.generator
    face = font(style.family, style.size)
    rows = int(generator.integers(2, 5))
    labels = [words.next() for _ in range(rows)]
    side = rows * ROW
    legend = canvas.start(frame.left + side + 18)
    if rows > frame.rows or legend + max(face.getlength(label) for label in labels) > frame.right:
        return 0
    shares_N = generator.dirichlet(np.full(rows, 4.0)) * 360
    angle = float(generator.uniform(0, 360))
    disc = (frame.left + 2, frame.top + 2, frame.left + side - 4, frame.top + side - 4)
    for row, (label, share) in enumerate(zip(labels, shares_N, strict=True)):
        tint = style.tints[row % len(style.tints)]
        canvas.draw.pieslice(disc, angle, angle + float(share), fill=tint, outline=style.paper)
        angle += float(share)
        y = frame.top + row * ROW
        canvas.draw.rectangle((legend - 13, y + 11, legend - 5, y + 19), tint)
        canvas.text(label, legend, y, face, style.ink)
    canvas.figure("pie", disc, pairs(labels))
    return rows


def pairs(labels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return neighbouring labels two by two; a lone label for itself; nothing for none."""
    return list(pairwise(labels)) if len(labels) > 1 else [(label,) for label in labels]
