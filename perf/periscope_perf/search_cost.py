"""The cost of exact search, dense and late: milliseconds a query, in memory, on vectors that `make evaluate` wrote.

    python -m periscope_perf.search_cost --vectors demo-output

The pages are repeated until there are as many as asked for, which changes no cost. Nothing is approximate: each query
is compared with every page. N pages, S page tokens, T query tokens, K dimensions of a late vector.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from periscope_client import Embeddings

Floats = npt.NDArray[np.float32]
Search = Callable[[int], Floats]

# Tokens compared at once: similarities that stay in the processor's cache are reduced without a trip to memory.
_BLOCK = 8192


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m periscope_perf.search_cost", description=main.__doc__)
    parser.add_argument("--vectors", type=Path, default=Path("demo-output"), help="where `make evaluate` wrote")
    parser.add_argument("--pages", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--queries", type=int, default=9)
    arguments = parser.parse_args()
    queries = Embeddings.load(arguments.vectors / "queries.npz")[: arguments.queries]
    pages = Embeddings.load(arguments.vectors / "pages.npz")
    print(f"{'pages':>8} {'output':>7} {'MB':>8} {'ms a query (median)':>20} {'slowest':>8}")
    for count in arguments.pages:
        for make in (_late, _dense):
            name, search, size = make(queries, pages, count)
            times = [_milliseconds(search, number) for number in range(len(queries))]
            print(f"{count:>8} {name:>7} {size / 1e6:>8.1f} {statistics.median(times):>20.2f} {max(times):>8.2f}")


def _dense(queries: Embeddings, pages: Embeddings, count: int) -> tuple[str, Search, int]:
    queries_QH, pages_NH = queries.dense_vectors(), pages.dense_vectors()
    many_NH = np.resize(pages_NH, (count, pages_NH.shape[1]))
    return "dense", lambda number: many_NH @ queries_QH[number], many_NH.nbytes


def _late(queries: Embeddings, pages: Embeddings, count: int) -> tuple[str, Search, int]:
    queries_QTK, pages_NSK = queries.late_vectors(), pages.late_vectors()
    chosen = [pages_NSK[number % len(pages_NSK)] for number in range(count)]
    starts_N = np.concatenate([[0], np.cumsum([len(page) for page in chosen])])
    tokens_SK = np.concatenate(chosen)
    return "late", lambda number: exact_maxsim(queries_QTK[number], tokens_SK, starts_N), tokens_SK.nbytes


def exact_maxsim(query_TK: Floats, tokens_SK: Floats, starts_N: npt.NDArray[np.int64]) -> Floats:
    """Scores [N] of pages whose tokens lie one under the other; page n begins at `starts_N[n]`, the last entry ends."""
    scores_N = np.empty(len(starts_N) - 1, np.float32)
    first = 0
    while first < len(scores_N):
        last = max(first + 1, int(np.searchsorted(starts_N, starts_N[first] + _BLOCK, side="right")) - 1)
        block_ST = tokens_SK[starts_N[first] : starts_N[last]] @ query_TK.T
        best_NT = np.maximum.reduceat(block_ST, starts_N[first:last] - starts_N[first], axis=0)
        scores_N[first:last] = best_NT.sum(1)
        first = last
    return scores_N


def _milliseconds(search: Search, number: int) -> float:
    search(number)  # the first call maps memory
    start = time.perf_counter()
    search(number)
    return (time.perf_counter() - start) * 1000


if __name__ == "__main__":
    main()
