"""The search that is timed is MaxSim."""

from __future__ import annotations

import numpy as np

from periscope_perf import search_cost


def test_scores_are_those_of_loops() -> None:
    generator = np.random.default_rng(0)
    query_TK = generator.standard_normal((4, 6)).astype(np.float32)
    pages = [generator.standard_normal((tokens, 6)).astype(np.float32) for tokens in (3, 9000, 1, 8, 20000, 5)]
    starts_N = np.concatenate([[0], np.cumsum([len(page) for page in pages])])
    found_N = search_cost.exact_maxsim(query_TK, np.concatenate(pages), starts_N)
    wanted = [sum(max(float(token @ word) for token in page) for word in query_TK) for page in pages]
    np.testing.assert_allclose(found_N, wanted, rtol=1e-5)
