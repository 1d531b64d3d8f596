"""Every kind of system in the engines that have graphs of their own: what is served is what fp32 serves, within the
recipe's tolerance. The CPU stands for the GPU, and fp16 for the precision that it lacks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported
from e2e.pages import column, infer
from e2e.processor import HAS_BF16
from periscope_client import Retriever
from periscope_export.exporter import Request, export
from periscope_export.fidelity.closeness import cosines
from periscope_export.graphs.precision import Precision
from periscope_export.recipes.loading import load_recipe
from periscope_perf.pages import page_files, queries
from periscope_serve.errors import ServeError
from periscope_serve.server import Server
from systems.checkpoints import SYSTEMS

EMBEDDING = ("colpali_merged", "jina_clip_v1", "qwen3_embedding")
RERANKING = "qwen3_reranker"
PRECISIONS: dict[str, Precision] = {"openvino": "bf16", "onnxruntime-cuda": "fp16"}


class Lower(NamedTuple):
    """A server of the same systems in another engine, and the folder of their repositories."""

    server: Server
    engine: str
    folder: Path

    @property
    def precision(self) -> Precision:
        """The precision of all of them."""
        return PRECISIONS[self.engine]

    @property
    def smallest(self) -> float:
        """The least distance of vectors from fp32's; a processor without bf16 computes it in fp32."""
        return 0 if self.precision == "bf16" and not HAS_BF16 else 1e-5


@pytest.fixture(scope="module", params=PRECISIONS)
def lower(
    systems: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Lower]:
    folder, engine = tmp_path_factory.mktemp("lower"), request.param

    def exported(name: str) -> Path:
        wanted = Request(str(systems[name].checkpoint), SYSTEMS[name][0], folder / name, name=name)
        return export(replace(wanted, engine=engine, precision=PRECISIONS[engine]), lambda _: None)

    repositories = [exported(name) for name in (*EMBEDDING, RERANKING)]
    log: Path = folder / "triton.log"
    with Server(repositories, grpc_port=0, http_port=0, metrics_port=0, log=log) as running:
        yield Lower(running, engine, folder)


def near(single: NDArray[np.float32], other: NDArray[np.float32], lower: Lower, recipe: str) -> bool:
    """Whether vectors are as near to fp32's as the recipe asks for, and not the same."""
    found, tolerance = cosines(other, single), load_recipe(recipe).tolerance[lower.precision]
    close = found.min() >= tolerance.cosine and found.mean() >= tolerance.mean_cosine
    return bool(close and np.abs(single - other).max() > lower.smallest)


@pytest.mark.parametrize("name", EMBEDDING)
def test_vectors(server: Server, lower: Lower, name: str) -> None:
    texts, images = queries(3), page_files(2, (224, 168))
    vectors = []
    for running in (server, lower.server):
        with Retriever(running.grpc_url, name) as retriever:
            late = "late" in retriever.info().outputs
            for embedded in (retriever.embed_text(texts), retriever.embed_image(images)):
                vectors.append(embedded.late_vectors() if late else list(embedded.dense_vectors()))
    single, other = np.concatenate(vectors[0] + vectors[1]), np.concatenate(vectors[2] + vectors[3])
    assert near(single, other, lower, SYSTEMS[name][0])


def test_prompts_of_all_beginnings(server: Server, lower: Lower) -> None:
    """OpenVINO's graphs keep the prefixes that prompts share, one for each instruction with a name: these have
    one, another, and none of them.
    """
    texts = ["revenue", "\n\nrevenue"]
    found = []
    for running in (server, lower.server):
        with Retriever(running.grpc_url, "qwen3_embedding") as retriever:
            asked = [
                retriever.embed_text(texts),
                retriever.embed_text(texts, task="retrieval"),
                retriever.embed_text(texts, instruction="Find the page"),
            ]
        with InferenceServerClient(running.grpc_url) as triton:
            joined = infer(triton, "qwen3_embedding_embed_text", {"TEXT": column([text.encode() for text in texts])})
            inputs = {tensor.name for tensor in triton.get_model_metadata("qwen3_embedding_language_model").inputs}
        kept = {"prefix_index"} if running is lower.server and lower.engine == "openvino" else set()
        assert inputs == {"input_ids", "position_ids", "visual_tokens"} | kept
        found.append(np.concatenate([*(embedded.dense_vectors() for embedded in asked), joined["dense"]]))
    assert near(found[0], found[1], lower, "qwen3_vl_embedding")


def test_a_repository_that_lost_its_prefixes_does_not_start(lower: Lower, tmp_path: Path) -> None:
    broken = shutil.copytree(lower.folder / "qwen3_embedding", tmp_path / "broken")
    files = sorted(broken.rglob("prefixes.json"))
    assert len(files) == (3 if lower.engine == "openvino" else 0)  # texts, pages and videos
    if files:
        files[0].unlink()
        (broken / "fidelity.json").unlink()  # whose list of files would tell first
        with (
            pytest.raises(ServeError, match=r"prefixes\.json and the output prefix_index need each other"),
            Server([broken], grpc_port=0, http_port=0, metrics_port=0, log=tmp_path / "triton.log"),
        ):
            pass


def test_scores(server: Server, lower: Lower) -> None:
    scores = []
    for running in (server, lower.server):
        with Retriever(running.grpc_url, RERANKING) as retriever:
            scores.append(
                retriever.rerank(queries(1)[0], [{"image": file} for file in page_files(3, (224, 168))]).scores
            )
    largest = load_recipe(SYSTEMS[RERANKING][0]).tolerance[lower.precision].scores
    assert lower.smallest <= np.abs(scores[0] - scores[1]).max() <= largest
