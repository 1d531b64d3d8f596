"""Targets of the direct supervision: the content of each patch and each visual token of a page.

P patches, V visual tokens, Z letters, Y classes (the terms, and last "no term").
"""

from __future__ import annotations

import string

import numpy as np
import numpy.typing as npt

from periscope_demo.pages.page import Box, Page
from periscope_demo.pages.vocabulary import FIGURES, TERMS

CLASS = {term: number for number, term in enumerate(TERMS)}
NO_TERM = len(TERMS)
LETTERS = string.ascii_lowercase

# A visual token shows a word when the word covers this part of it; less is a sliver that nobody could read.
_LEAST_COVER = 0.10

Floats = npt.NDArray[np.float32]


def letter_targets(page: Page, positions_P2: npt.NDArray[np.int32], patch: int) -> Floats:
    """Return [P, A]: 1 where a patch shows at least a third of a letter."""
    targets_PZ = np.zeros((len(positions_P2), len(LETTERS)), dtype=np.float32)
    index = {(int(row), int(column)): number for number, (row, column) in enumerate(positions_P2)}
    for word in page.words:
        for letter, box in zip(word.term, word.letters, strict=True):
            for cell, part in _covered(box, patch):
                if part * patch * patch >= _area(box) / 3 and cell in index:
                    targets_PZ[index[cell], LETTERS.index(letter)] = 1
    return targets_PZ


def term_targets(page: Page, grid: tuple[int, int], token: int) -> Floats:
    """Return [V, Y]: how the visual tokens of a grid (rows, columns) divide among the terms; rows sum to 1."""
    rows, columns = grid
    cover_VY = np.zeros((rows * columns, NO_TERM + 1), dtype=np.float32)
    for placed in page.words:
        for (row, column), part in _covered(placed.box, token):
            if part >= _LEAST_COVER and row < rows and column < columns:
                cover_VY[row * columns + column, CLASS[placed.term]] += part
    figures_VY = np.zeros_like(cover_VY)
    for placed in page.figures:
        for (row, column), part in _covered(placed.box, token):
            if part >= 0.5 and row < rows and column < columns:
                figures_VY[row * columns + column, CLASS[placed.term]] = 1
    empty_V = cover_VY.sum(1) == 0
    cover_VY[empty_V] = figures_VY[empty_V]
    cover_VY[cover_VY.sum(1) == 0, NO_TERM] = 1
    return cover_VY / cover_VY.sum(1, keepdims=True)


def page_targets(page: Page) -> Floats:
    """Return [Y - 1]: 1 for each term on the page."""
    return terms_vector(page.terms)


def terms_vector(terms: frozenset[str]) -> Floats:
    """Return [Y - 1]: 1 for each of the terms."""
    vector_Y = np.zeros(NO_TERM, dtype=np.float32)
    vector_Y[[CLASS[term] for term in terms]] = 1
    return vector_Y


def token_class(token: str) -> int:
    """Return the class of a query's token: its term's, or "no term"."""
    term = token.removeprefix("Ġ").lower()
    return CLASS.get(term, NO_TERM)


def _covered(box: Box, side: int) -> list[tuple[tuple[int, int], float]]:
    """Return the cells (row, column) of a square grid that a box touches, each with the part of it that is covered."""
    left, top, right, bottom = box
    cells = []
    for row in range(max(0, int(top // side)), int(bottom // side) + 1):
        high = min(bottom, (row + 1) * side) - max(top, row * side)
        for column in range(max(0, int(left // side)), int(right // side) + 1):
            wide = min(right, (column + 1) * side) - max(left, column * side)
            if high > 0 and wide > 0:
                cells.append(((row, column), high * wide / side**2))
    return cells


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


assert set(FIGURES) <= set(CLASS)
