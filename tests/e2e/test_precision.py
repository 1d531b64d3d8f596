"""fp16 graphs through the running server: half the bytes, and a ranking that is the fp32 graphs'."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from e2e.exported import Exported
from periscope_client import Retriever
from periscope_client.console import main
from periscope_demo.checkpoint import shipped_checkpoint
from periscope_demo.evaluate import dense_scores
from periscope_demo.evaluation import make_evaluation, measure
from periscope_export.exporter import Request, export
from periscope_export.recipe import load_recipe
from periscope_serve.server import Server

RECIPE = "colqwen2_dense"


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("half") / "repository"
    return export(Request(str(shipped_checkpoint()), RECIPE, output, name="half", precision="fp16"))


@pytest.fixture(scope="module")
def half_retriever(half: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retriever]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with (
        Server([half], grpc_port=0, http_port=0, metrics_port=0, log=log) as server,
        Retriever(server.grpc_url, "half") as retriever,
    ):
        yield retriever


def test_the_ranking_is_that_of_fp32(half_retriever: Retriever, server: Server, trained: Exported) -> None:
    wanted = make_evaluation(pages=60, queries=40)
    figures, vectors = {}, {}
    with Retriever(server.grpc_url, trained.name) as single_retriever:
        for name, retriever in (("fp32", single_retriever), ("fp16", half_retriever)):
            queries = retriever.embed_text([query.text for query in wanted.queries])
            pages = retriever.embed_image(page.image for page in wanted.pages)
            scores = {"late": retriever.maxsim(queries, pages), "dense": dense_scores(queries, pages)}
            figures[name] = {output: measure(rows, wanted.relevant_QN).ndcg5 for output, rows in scores.items()}
            vectors[name] = (*queries.late_vectors(), *pages.late_vectors(), queries.dense_vectors())
    for output in ("late", "dense"):
        assert abs(figures["fp16"][output] - figures["fp32"][output]) <= 0.005, output
    errors = [np.abs(one - other).max() for one, other in zip(vectors["fp16"], vectors["fp32"], strict=True)]
    assert 1e-5 < max(errors) <= load_recipe(RECIPE).tolerance["fp16"]


def test_vectors_of_another_precision_have_another_fingerprint(
    half_retriever: Retriever, server: Server, trained: Exported
) -> None:
    with Retriever(server.grpc_url, trained.name) as single:
        assert half_retriever.info().fingerprint != single.info().fingerprint


def test_tensors_between_steps_are_half_and_vectors_are_not(half: Path, trained: Exported) -> None:
    found: dict[str, str] = {}
    for path in half.glob("*/config.pbtxt"):
        config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
        for tensor in (*config.input, *config.output):
            kind = model_config_pb2.DataType.Name(tensor.data_type)
            assert found.setdefault(tensor.name, kind) == kind
    assert {name for name, kind in found.items() if kind == "TYPE_FP16"} == {"visual_tokens", "hidden_states"}
    assert found["late"] == found["dense"] == found["score"] == "TYPE_FP32"

    def weights(repository: Path) -> int:
        return sum(path.stat().st_size for path in repository.glob("*/1/model.onnx.data"))

    assert weights(half) < 0.55 * weights(trained.repository)


def test_it_verifies_and_has_no_finding(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(half)]) == 0
    assert "fp16" in capsys.readouterr().out
    assert main(["lint", str(half)]) == 0
