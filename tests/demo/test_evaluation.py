"""The evaluation set and its figures, against a metric written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from periscope_demo.evaluation import KINDS, MOST_RELEVANT, make_evaluation, measure


def slow_ndcg5(scores: list[float], relevant: list[bool]) -> float:
    order = sorted(range(len(scores)), key=lambda page: -scores[page])
    gain = sum(1 / math.log2(rank + 2) for rank, page in enumerate(order[:5]) if relevant[page])
    return gain / sum(1 / math.log2(rank + 2) for rank in range(min(5, sum(relevant))))


def test_figures_are_those_of_the_definition() -> None:
    generator = np.random.default_rng(4)
    scores_QN = generator.standard_normal((30, 20)).astype(np.float32)
    relevant_QN = generator.random((30, 20)) < 0.15
    relevant_QN[:, 0] |= ~relevant_QN.any(1)
    quality = measure(scores_QN, relevant_QN)
    wanted = [slow_ndcg5(scores.tolist(), right.tolist()) for scores, right in zip(scores_QN, relevant_QN, strict=True)]
    assert quality.ndcg5 == pytest.approx(np.mean(wanted), abs=1e-6)
    first_Q = scores_QN.argmax(1)
    hits_Q = relevant_QN[np.arange(30), first_Q]
    assert quality.success1 == pytest.approx(hits_Q.mean())
    assert quality.recall1 == pytest.approx((hits_Q / relevant_QN.sum(1)).mean())


def test_a_perfect_ranking_is_one_and_its_opposite_nothing() -> None:
    relevant_QN = np.eye(8, dtype=bool)
    assert measure(relevant_QN.astype(np.float32), relevant_QN).ndcg5 == 1
    assert measure(-relevant_QN.astype(np.float32), relevant_QN).ndcg5 == 0


def test_the_set_is_what_it_says() -> None:
    wanted = make_evaluation(pages=80, queries=24, seed=6)
    again = make_evaluation(pages=80, queries=24, seed=6)
    assert [query.text for query in wanted.queries] == [query.text for query in again.queries]
    assert wanted.pages[5].image.tobytes() == again.pages[5].image.tobytes()
    assert len({query.text for query in wanted.queries}) == 24
    assert [query.kind for query in wanted.queries] == list(KINDS) * 6
    for query, relevant_N in zip(wanted.queries, wanted.relevant_QN, strict=True):
        assert [query.fits(page) for page in wanted.pages] == relevant_N.tolist()
        assert 1 <= relevant_N.sum() <= MOST_RELEVANT
