"""The evaluation set, drawn from a seed, and the figures that a ranking of it gets.

Q queries, N pages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytrec_eval

from periscope_demo.pages.generator import make_page
from periscope_demo.pages.page import Page
from periscope_demo.queries import Kind, Query, make_query

# Of another series than the training's: no page and no query of it was ever learnt.
SEED = 811

KINDS: tuple[Kind, ...] = ("words", "heading", "cell", "label")

# A query that more pages answer asks for too little.
MOST_RELEVANT = 3

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EvaluationSet:
    """Pages, and queries about them.

    pages, queries: in the order of N and Q.
    relevant_QN: 1 where a page answers a query.
    """

    pages: tuple[Page, ...]
    queries: tuple[Query, ...]
    relevant_QN: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Quality:
    """Means over queries.

    ndcg5: nDCG of the first five pages.
    recall1: the share of a query's right pages that are found first.
    success1: the share of queries whose first page is right.
    """

    ndcg5: float
    recall1: float
    success1: float


def make_evaluation(
    pages: int = 600, queries: int = 240, seed: int = SEED, size: tuple[int, int] | None = None
) -> EvaluationSet:
    """Draw pages, and ask about them: the kinds of queries in turn, no query twice, one to three right pages each.

    Pages are of one `size` (width and height in pixels), without it of several.
    """
    generator = np.random.default_rng(seed)
    drawn = tuple(make_page(generator, size=size) for _ in range(pages))
    asked: dict[str, Query] = {}
    relevant: list[list[bool]] = []
    while len(asked) < queries:
        query = make_query(generator, drawn[int(generator.integers(pages))])
        fits = [query.fits(page) for page in drawn]
        wanted = query.kind == KINDS[len(asked) % len(KINDS)]
        if wanted and len(query.terms) > 1 and sum(fits) <= MOST_RELEVANT and query.text not in asked:
            asked[query.text] = query
            relevant.append(fits)
    return EvaluationSet(drawn, tuple(asked.values()), np.array(relevant))


def measure(scores_QN: Floats, relevant_QN: npt.NDArray[np.bool_]) -> Quality:
    """Score a ranking with trec_eval."""
    per_query = measure_each(scores_QN, relevant_QN)
    means = {name: float(np.mean([row[name] for row in per_query])) for name in per_query[0]}
    return Quality(means["ndcg_cut_5"], means["recall_1"], means["success_1"])


def measure_each(scores_QN: Floats, relevant_QN: npt.NDArray[np.bool_]) -> list[dict[str, float]]:
    """Return trec_eval's figures query by query: ndcg_cut_5, recall_1, success_1."""
    judged = {str(q): {str(n): 1 for n in np.flatnonzero(row)} for q, row in enumerate(relevant_QN)}
    ranked = {str(q): {str(n): float(score) for n, score in enumerate(row)} for q, row in enumerate(scores_QN)}
    evaluator = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.5", "recall.1", "success.1"})
    found = evaluator.evaluate(ranked)
    return [found[str(q)] for q in range(len(relevant_QN))]
