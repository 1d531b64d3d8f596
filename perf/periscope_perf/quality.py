"""Quality beside speed: how close vectors are to the reference's, whether they rank alike, nDCG@5 of the demonstration.

Q queries, N pages, T tokens, K dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from periscope_client import Retriever
from periscope_demo.evaluation import make_evaluation, measure
from periscope_perf.peers.host import Vectors
from periscope_serve.server import Server

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Closeness:
    """The closeness of a contender to the reference, over all pages and queries.

    cosine, mean_cosine: the smallest and the mean over vectors; None where items have other numbers of vectors than the
        reference's.
    same_order: of all pairs of pages, for all queries, the share that is ranked alike.
    """

    cosine: float | None
    mean_cosine: float | None
    same_order: float


def closeness(pages: Vectors, queries: Vectors, true_pages: Vectors, true_queries: Vectors) -> Closeness:
    """Compare vectors [T, K] of pages and queries with those of the reference."""
    pairs = list(zip([*pages, *queries], [*true_pages, *true_queries], strict=True))
    cosines = [_cosines(one, other) for one, other in pairs if one.shape == other.shape]
    every = np.concatenate(cosines) if len(cosines) == len(pairs) else None
    found_QN, true_QN = scores(queries, pages), scores(true_queries, true_pages)
    return Closeness(
        None if every is None else float(every.min()),
        None if every is None else float(every.mean()),
        same_order(found_QN, true_QN),
    )


def scores(queries: Vectors, pages: Vectors) -> Floats:
    """MaxSim [Q, N]; of single vectors this is the dot product."""
    return np.array(
        [[(query_TK @ page_TK.T).max(1).sum() for page_TK in pages] for query_TK in queries], dtype=np.float32
    )


def same_order(found_QN: Floats, true_QN: Floats) -> float:
    """Of all pairs of pages of each query: the share that both rank alike. 1 where there is no pair."""
    first, second = np.triu_indices(true_QN.shape[1], k=1)
    if not len(first):
        return 1.0
    alike = np.sign(found_QN[:, first] - found_QN[:, second]) == np.sign(true_QN[:, first] - true_QN[:, second])
    return float(alike.mean())


def demo_ndcg5(repository: Path, name: str, pages: int, queries: int, log: Path) -> float:
    """nDCG@5 by late vectors of the demonstration's retriever, served from a repository under a name."""
    wanted = make_evaluation(pages, queries)
    with (
        Server([repository], grpc_port=0, http_port=0, metrics_port=0, log=log) as server,
        Retriever(server.grpc_url, name) as retriever,
    ):
        asked = retriever.embed_text([query.text for query in wanted.queries], outputs=["late"], progress=False)
        shown = retriever.embed_image([page.image for page in wanted.pages], outputs=["late"], progress=False)
        scores_QN = retriever.maxsim(asked, shown, progress=False)
    return measure(scores_QN, wanted.relevant_QN).ndcg5


def _cosines(one: Floats, other: Floats) -> Floats:
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    cosines: Floats = (one * other).sum(-1) / np.maximum(lengths, 1e-12)
    return cosines
