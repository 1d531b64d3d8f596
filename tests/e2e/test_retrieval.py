"""Retrieval quality: the trained retriever finds the right pages, and the server loses nothing of it."""

from __future__ import annotations

import numpy as np

from e2e.exported import Exported
from periscope_client import Retriever
from periscope_demo.evaluate import dense_scores
from periscope_demo.evaluation import make_evaluation, measure
from periscope_serve.server import Server
from periscope_testing.colqwen2.reference import ColQwen2Reference


def test_served_ndcg_is_the_published_implementations(
    server: Server, trained: Exported, trained_reference: ColQwen2Reference
) -> None:
    wanted = make_evaluation(pages=60, queries=40)
    texts = [query.text for query in wanted.queries]
    with Retriever(server.grpc_url, trained.name) as retriever:
        queries, pages = retriever.embed_text(texts), retriever.embed_image(page.image for page in wanted.pages)
        served = {"late": retriever.maxsim(queries, pages), "dense": dense_scores(queries, pages)}
    reference = trained_reference
    embedded_queries = [reference.late_and_dense(reference.query_inputs([text]))[0] for text in texts]
    embedded_pages = [reference.late_and_dense(reference.image_inputs([page.image]))[0] for page in wanted.pages]
    late_queries, dense_queries = zip(*embedded_queries, strict=True)
    late_pages, dense_pages = zip(*embedded_pages, strict=True)
    published = {
        "late": reference.maxsim(late_queries, late_pages),
        "dense": np.stack(dense_queries) @ np.stack(dense_pages).T,
    }
    for name, least in (("late", 0.9), ("dense", 0.6)):
        found, right = (measure(scores[name], wanted.relevant_QN).ndcg5 for scores in (served, published))
        assert abs(found - right) <= 0.005, name
        assert found >= least, name
