"""The distance of graphs from the fp32 towers: each step alone, the vectors of the whole chain, and what they rank.

Each chain is run from every step on, the steps before it exact, so that it shows which step brings an error in.
Legend: B rows, T tokens, K dimensions of a vector, Q queries, N pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from periscope_export.fidelity.record import Array, Golden, Measured, Run, vectors_that_meet
from periscope_runtime.paths import PATHS, RERANK, SEARCH

# The number of vectors, those furthest from the towers', that are recorded.
_RECORDED = 3

# The steps of a path of items, in order; by the step that it begins with, what it makes of the towers' tensors.
_Chains = dict[str, dict[str, dict[str, Array]]]


class _Vector(NamedTuple):
    """The place of a vector: output, path, row, and token (None of a dense one)."""

    output: str
    path: str
    row: int
    token: int | None

    def of(self, tensors: Golden) -> Array:
        vectors = tensors[self.path][self.output][self.row]
        return vectors if self.token is None else vectors[self.token]


# Graphs that overflow give inf and nan, which `gate` refuses.
@np.errstate(invalid="ignore", over="ignore")
def measure(golden: Golden, steps: Mapping[str, Iterable[str]], run: Run) -> Measured:
    """Compare `run` with golden tensors.

    `steps` maps each step, in order, to the paths that it serves.
    """
    order, chains = list(steps), _Chains({path: {} for path in golden})
    distances: dict[str, dict[str, float]] = {}
    for step, paths in steps.items():
        pairs: list[tuple[Array, Array]] = []
        for path in paths:
            _begin(chains, golden, path, order[: order.index(step) + 1])
            for start, tensors in chains[path].items():
                outputs = run(step, tensors)
                tensors.update(outputs)
                if start == step:
                    pairs += [(found, golden[path][name]) for name, found in outputs.items()]
        distances[step] = distance(pairs)
    # The vectors that are served when the steps from this one on are the graphs', and those before it exact.
    served = {
        start: {path: _since(chains[path], order[place:], golden[path]) for path in golden}
        for place, start in enumerate(order)
    }
    return {
        "steps": distances,
        "vectors": _vectors(served, golden),
        "retrieval": _retrieval({start: _scores(tensors) for start, tensors in served.items()}, golden),
    }


def _begin(chains: _Chains, golden: Golden, path: str, order: Sequence[str]) -> None:
    """Have the chains of a path begin that begin with the last of these steps."""
    if not PATHS[path].sides:
        chains[path][order[-1]] = dict(golden[path])
        return
    for place, start in enumerate(order[:-1]):
        sides = (_since(chains[side.name], order[place:], golden[side.name]) for side in PATHS[path].sides)
        chains[path][start] = vectors_that_meet(*sides)
    chains[path][order[-1]] = dict(golden[path])


def _since(chains: Mapping[str, dict[str, Array]], order: Iterable[str], exact: dict[str, Array]) -> dict[str, Array]:
    return next((chains[start] for start in order if start in chains), exact)


def distance(pairs: Iterable[tuple[Array, Array]]) -> dict[str, float]:
    """Return the largest absolute error and the smallest cosine of a row."""
    errors, lowest = [0.0], [1.0]
    for found, wanted in pairs:
        errors.append(float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max(initial=0.0)))
        lowest.append(float(cosines(found, wanted).min(initial=1.0)))
    # numpy's, which let no nan get lost.
    return {"max_abs_error": float(np.max(errors)), "min_cosine": float(np.min(lowest))}


@np.errstate(invalid="ignore", over="ignore")
def cosines(found: Array, wanted: Array) -> Array:
    """Return the cosine of each row [..., K]: 1 where both are zeros (padding), 0 where one is; nan stays."""
    found_64, wanted_64 = found.astype(np.float64), wanted.astype(np.float64)
    norms = np.linalg.norm(found_64, axis=-1) * np.linalg.norm(wanted_64, axis=-1)
    both_zero = ~found_64.any(-1) & ~wanted_64.any(-1)
    products = (found_64 * wanted_64).sum(-1)
    cosine: Array = np.where(both_zero, 1.0, np.divide(products, norms, where=norms != 0, out=np.zeros_like(norms)))
    return cosine


def _vectors(served: Mapping[str, Golden], golden: Golden) -> Measured:
    whole = next(iter(served.values()))
    outputs = [(path, name) for path in golden for name in ("late", "dense") if name in golden[path]]
    found = [(whole[path][name], golden[path][name]) for path, name in outputs]
    if not outputs:
        return {**distance([]), "mean_cosine": 1.0, "vectors": 0, "furthest": []}
    by_output = [cosines(*pair) for pair in found]
    real = [np.linalg.norm(wanted, axis=-1) != 0 for _, wanted in found]
    furthest = sorted(_furthest(outputs, by_output), key=lambda one: np.nan_to_num(one[0], nan=-2))[:_RECORDED]
    counted = np.concatenate([cosine[mask] for cosine, mask in zip(by_output, real, strict=True)])
    return {
        **distance(found),
        "mean_cosine": float(counted.mean()),
        "vectors": int(counted.size),
        "furthest": [
            {
                **vector._asdict(),
                "cosine": cosine,
                "since": {
                    start: float(cosines(vector.of(tensors), vector.of(golden))) for start, tensors in served.items()
                },
            }
            for cosine, vector in furthest
        ],
    }


def _furthest(outputs: Sequence[tuple[str, str]], by_output: Sequence[Array]) -> Iterator[tuple[float, _Vector]]:
    """Yield the lowest cosine of each item and output, and whose it is."""
    for (path, name), cosine in zip(outputs, by_output, strict=True):
        for row, of_row in enumerate(cosine):
            if name == "dense":
                yield float(of_row), _Vector(name, path, row, None)
            else:
                token = int(of_row.argmin())  # of nan, if there is one
                yield float(of_row[token]), _Vector(name, path, row, token)


def _scores(tensors: Golden) -> Array:
    """Return what documents are ranked by [Q, N]: a reranker's scores, MaxSim, or cosines of dense vectors."""
    if RERANK.name in tensors:
        return tensors[RERANK.name]["score"].T
    if SEARCH.name in tensors:
        return tensors[SEARCH.name]["score"]
    queries, documents = (tensors[path]["dense"] for path in _ranked(tensors))
    scores_QN: Array = queries @ documents.T
    return scores_QN


def _ranked(tensors: Golden) -> tuple[str, str]:
    """Return the paths of the queries and of the documents that are ranked by them."""
    if RERANK.name in tensors:
        return RERANK.name, RERANK.name
    if SEARCH.name in tensors:
        queries, documents = SEARCH.sides
        return queries.name, documents.name
    return next(iter(tensors)), list(tensors)[-1]


def _retrieval(served: Mapping[str, Array], golden: Golden) -> Measured:
    """Compare scores and rankings. What is "by token" is divided by the vectors of a query that MaxSim sums over."""
    found_QN, wanted_QN = next(iter(served.values())).astype(np.float64), _scores(golden).astype(np.float64)
    tokens_Q1 = np.ones((len(wanted_QN), 1))
    if SEARCH.name in golden:
        tokens_Q1 = golden[SEARCH.name]["query_mask"].sum(1, keepdims=True).clip(min=1)
    errors_QN = np.abs(found_QN - wanted_QN) / tokens_Q1
    query, page = np.unravel_index(int(errors_QN.argmax()), errors_QN.shape)
    first, second = np.triu_indices(wanted_QN.shape[1], k=1)
    found_gaps, gaps = ((x_QN[:, first] - x_QN[:, second]) / tokens_Q1 for x_QN in (found_QN, wanted_QN))
    agree = np.sign(found_gaps) * np.sign(gaps)
    swapped = ~(agree > 0) & (gaps != 0)
    return {
        "queries": int(wanted_QN.shape[0]),
        "pages": int(wanted_QN.shape[1]),
        "max_abs_error": float(np.abs(found_QN - wanted_QN).max()),
        "max_error_by_token": float(errors_QN.max()),
        # The scores that differ most, and their difference with the steps before this one exact.
        "furthest": {
            "query": [_ranked(golden)[0], int(query)],
            "document": [_ranked(golden)[1], int(page)],
            "score": float(found_QN[query, page]),
            "exact": float(wanted_QN[query, page]),
            "since": {
                start: float(abs(scores_QN[query, page] - wanted_QN[query, page]) / tokens_Q1[query, 0])
                for start, scores_QN in served.items()
            },
        },
        "kendall_tau": float(agree.mean()),
        # The distance by token of two pages that changed places, and of half of all pairs.
        "largest_swapped_gap": float(np.abs(gaps[swapped]).max(initial=0.0)),
        "median_gap": float(np.median(np.abs(gaps))),
        "same_first_page": float((found_QN.argmax(1) == wanted_QN.argmax(1)).mean()),
    }
