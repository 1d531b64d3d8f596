"""A stage of the training: what its batches are made of, and what counts in it."""

from __future__ import annotations

from dataclasses import dataclass

from periscope_demo.pages.generator import Look


@dataclass(frozen=True)
class Weights:
    """The weight of each loss."""

    letters: float = 0.5
    visual_terms: float = 0.5
    late_terms: float = 1.0
    query_terms: float = 0.3
    dense_terms: float = 0.5
    maxsim: float = 0.5
    dense: float = 0.3


@dataclass(frozen=True)
class Stage:
    """A stretch of the training.

    steps: their number.
    pages: of a batch.
    formats: of pages, in pixels.
    look: of pages.
    pool: the number of different words that the pages of a batch share; a small pool makes hard negatives.
    contrast: whether pages compete for queries yet.
    queries_per_page: their number.
    weights: of the losses.
    """

    steps: int
    pages: int
    formats: tuple[tuple[int, int], ...]
    look: Look
    pool: int
    contrast: bool = True
    queries_per_page: int = 2
    weights: Weights = Weights()
