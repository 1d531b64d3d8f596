"""Lower precisions through the running server: fewer bytes, and a ranking that is the fp32 graphs'."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from e2e.exported import Exported
from e2e.processor import EXACT_INT8, HAS_BF16
from periscope_client import Retriever
from periscope_client.console import main
from periscope_demo.evaluate import dense_scores
from periscope_demo.evaluation import make_evaluation, measure
from periscope_demo.shipped import shipped_checkpoint
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_export.fidelity.closeness import cosines
from periscope_export.graphs.precision import Precision
from periscope_export.recipes.loading import load_recipe
from periscope_serve.server import Server

RECIPE = "colqwen2_dense"


@pytest.fixture(scope="module")
def half(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("half") / "repository"
    return export(Request(str(shipped_checkpoint()), RECIPE, output, name="half", precision="fp16"))


@pytest.fixture(scope="module")
def for_cuda(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the CUDA provider's operators, which the CPU has too."""
    output = tmp_path_factory.mktemp("for_cuda") / "repository"
    return export(Request(str(shipped_checkpoint()), RECIPE, output, name="for_cuda", engine="onnxruntime-cuda"))


@pytest.fixture(scope="module")
def quantised(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """For GPUs, and served on the CPU like any other: onnxruntime runs quantised graphs too, only not faster."""
    folder = tmp_path_factory.mktemp("quantised")
    modes: tuple[Precision, ...] = ("int8", "fp8")
    return [
        export(
            Request(
                str(shipped_checkpoint()),
                RECIPE,
                folder / mode,
                name=mode,
                precision=mode,
                engine="onnxruntime-tensorrt",
            )
        )
        for mode in modes
    ]


@pytest.fixture(scope="module")
def in_openvino(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("openvino")
    precisions: tuple[Precision, ...] = ("bf16", "int8") if EXACT_INT8 else ("bf16",)
    return [
        export(
            Request(
                str(shipped_checkpoint()),
                RECIPE,
                folder / precision,
                name=f"openvino_{precision}",
                precision=precision,
                engine="openvino",
            )
        )
        for precision in precisions
    ]


@pytest.fixture(scope="module")
def lower(
    half: Path,
    for_cuda: Path,
    quantised: list[Path],
    in_openvino: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    repositories = [half, for_cuda, *quantised, *in_openvino]
    with Server(repositories, grpc_port=0, http_port=0, metrics_port=0, log=log) as running:
        yield running


@pytest.fixture(scope="module")
def half_retriever(lower: Server) -> Iterator[Retriever]:
    with Retriever(lower.grpc_url, "half") as retriever:
        yield retriever


class Ranking(NamedTuple):
    """nDCG@5 by output, and all vectors."""

    ndcg5: dict[str, float]
    vectors: list[NDArray[np.float32]]


def rank(url: str, name: str) -> Ranking:
    wanted = make_evaluation(pages=60, queries=40)
    with Retriever(url, name) as retriever:
        queries = retriever.embed_text([query.text for query in wanted.queries])
        pages = retriever.embed_image(page.image for page in wanted.pages)
        scores = {"late": retriever.maxsim(queries, pages), "dense": dense_scores(queries, pages)}
    figures = {output: measure(rows, wanted.relevant_QN).ndcg5 for output, rows in scores.items()}
    return Ranking(figures, [*queries.late_vectors(), *pages.late_vectors(), queries.dense_vectors()])


@pytest.fixture(scope="module")
def single(server: Server, trained: Exported) -> Ranking:
    return rank(server.grpc_url, trained.name)


# Of 40 queries, one whose right page falls from the first place to the second moves nDCG@5 by 0.009.
@pytest.mark.parametrize(
    ("name", "precision", "largest", "smallest"),
    [
        ("half", "fp16", 0.005, 1e-5),
        ("for_cuda", "fp16", 0.005, 1e-5),
        ("int8", "int8", 0.02, 1e-3),
        ("fp8", "fp8", 0.02, 1e-3),
        ("openvino_bf16", "bf16", 0.02, 1e-5 if HAS_BF16 else 0),
        pytest.param(
            *("openvino_int8", "int8", 0.02, 1e-3),
            marks=pytest.mark.skipif(not EXACT_INT8, reason="a CPU without VNNI"),
        ),
    ],
)
def test_the_ranking_is_that_of_fp32(
    lower: Server, single: Ranking, name: str, precision: str, largest: float, smallest: float
) -> None:
    found = rank(lower.grpc_url, name)
    for output in ("late", "dense"):
        assert abs(found.ndcg5[output] - single.ndcg5[output]) <= largest, output
    assert max(np.abs(one - other).max() for one, other in zip(found.vectors, single.vectors, strict=True)) > smallest
    closeness = [cosines(one, other).ravel() for one, other in zip(found.vectors, single.vectors, strict=True)]
    assert np.concatenate(closeness).mean() >= load_recipe(RECIPE).tolerance[precision].mean_cosine


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


def test_they_verify_and_have_no_finding(half: Path, for_cuda: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for repository in (half, for_cuda):
        assert main(["verify", str(repository)]) == 0
        assert "fp16" in capsys.readouterr().out
        assert main(["lint", str(repository)]) == 0


def test_quantised_graphs_too(quantised: list[Path]) -> None:
    for repository in quantised:
        assert main(["lint", str(repository)]) == 0
        weights = onnx.load(repository / f"{repository.name}_vision_encoder" / "1" / "model.onnx").graph.initializer
        kinds = {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in weights}
        assert {"int8": "INT8", "fp8": "FLOAT8E4M3FN"}[repository.name] in kinds


def test_openvino_serves_towers_and_onnxruntime_heads(in_openvino: list[Path]) -> None:
    for repository in in_openvino:
        backends = {
            path.parent.name.partition("_")[2].partition("_")[2]: text_format.Parse(
                path.read_text(), model_config_pb2.ModelConfig()
            ).backend
            for path in repository.glob("*/config.pbtxt")
        }
        found = {name: backend for name, backend in backends.items() if backend in ("openvino", "onnxruntime")}
        towers = dict.fromkeys(("vision_encoder", "language_model"), "openvino")
        assert found == {**towers, **dict.fromkeys(("late_head", "dense_head", "maxsim"), "onnxruntime")}


@pytest.mark.skipif(EXACT_INT8, reason="a CPU with VNNI")
def test_openvino_in_int8_is_refused_where_it_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="this processor adds up products of int8 wrongly"):
        export(Request(str(shipped_checkpoint()), RECIPE, tmp_path / "r", precision="int8", engine="openvino"))


def test_verify_measures_openvino_in_openvino(in_openvino: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(in_openvino[0])]) == 0
    report = json.loads((in_openvino[0] / "fidelity.json").read_text())
    assert (report["engine"], report["measured_with"]) == ("openvino", "the graphs, in openvino, on the CPU")
    assert "bf16" in capsys.readouterr().out
