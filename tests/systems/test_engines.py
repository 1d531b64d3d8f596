"""Every kind of system in OpenVINO, in bf16: what is served is what fp32 serves, within the recipe's tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from e2e.exported import Exported
from periscope_client import Retriever
from periscope_export.exporter import Request, export
from periscope_export.recipe import load_recipe
from periscope_perf.pages import page_files, queries
from periscope_serve.server import Server
from systems.checkpoints import SYSTEMS

EMBEDDING = ("colpali_merged", "jina_clip_v1", "qwen3_embedding")
RERANKING = "qwen3_reranker"


@pytest.fixture(scope="module")
def faster(systems: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("openvino")
    repositories = [
        export(
            Request(str(systems[name].checkpoint), SYSTEMS[name][0], folder / name, name=name, engine="openvino"),
            lambda _: None,
        )
        for name in (*EMBEDDING, RERANKING)
    ]
    log: Path = folder / "triton.log"
    with Server(repositories, grpc_port=0, http_port=0, metrics_port=0, log=log) as running:
        yield running


@pytest.mark.parametrize("name", EMBEDDING)
def test_vectors(server: Server, faster: Server, name: str) -> None:
    texts, images = queries(3), page_files(2, (224, 168))
    vectors = []
    for running in (server, faster):
        with Retriever(running.grpc_url, name) as retriever:
            late = "late" in retriever.info().outputs
            for embedded in (retriever.embed_text(texts), retriever.embed_image(images)):
                vectors.append(embedded.late_vectors() if late else list(embedded.dense_vectors()))
    single, lower = np.concatenate(vectors[0] + vectors[1]), np.concatenate(vectors[2] + vectors[3])
    assert 1e-5 < np.abs(single - lower).max() <= load_recipe(SYSTEMS[name][0]).tolerance["bf16"]


def test_scores(server: Server, faster: Server) -> None:
    scores = []
    for running in (server, faster):
        with Retriever(running.grpc_url, RERANKING) as retriever:
            scores.append(
                retriever.rerank(queries(1)[0], [{"image": file} for file in page_files(3, (224, 168))]).scores
            )
    assert 0 < np.abs(scores[0] - scores[1]).max() <= load_recipe(SYSTEMS[RERANKING][0]).tolerance["bf16"]
