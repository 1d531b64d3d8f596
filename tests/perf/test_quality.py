"""Quality beside speed, on vectors whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from periscope_perf.quality import closeness, same_order, scores


def test_maxsim_and_dot_product() -> None:
    query, page = np.eye(3, dtype=np.float32)[:2], np.eye(3, dtype=np.float32)[1:] * 2
    assert scores([query], [page, -page]).tolist() == [[2.0, 0.0]]
    assert scores([query[:1]], [query[:1], page[:1]]).tolist() == [[1.0, 0.0]]


def test_the_same_vectors() -> None:
    rng = np.random.default_rng(0)
    pages = [rng.normal(size=(length, 8)).astype(np.float32) for length in (3, 4, 5)]
    queries = [rng.normal(size=(2, 8)).astype(np.float32)]
    found = closeness(pages, queries, pages, queries)
    assert (found.cosine, found.mean_cosine, found.same_order) == pytest.approx((1.0, 1.0, 1.0))
    turned = closeness([-page for page in pages], queries, pages, queries)
    assert turned.cosine == pytest.approx(-1.0)


def test_another_number_of_vectors_has_no_cosine() -> None:
    rng = np.random.default_rng(0)
    pages, queries = ([rng.normal(size=(4, 8)).astype(np.float32)] * 2 for _ in range(2))
    found = closeness(pages, [query[:3] for query in queries], pages, queries)
    assert found.cosine is None
    assert found.mean_cosine is None


def test_share_of_pairs_in_the_same_order() -> None:
    truth_QN = np.array([[3.0, 2.0, 1.0]], np.float32)
    assert same_order(np.array([[9.0, 5.0, 1.0]], np.float32), truth_QN) == 1.0
    assert same_order(np.array([[2.0, 3.0, 1.0]], np.float32), truth_QN) == pytest.approx(2 / 3)
    assert same_order(truth_QN[:, :1], truth_QN[:, :1]) == 1.0
