"""`make gpu-check` without a GPU: engines are compiled all the same, and the towers in bf16 stand for them.

The graphs run where the CUDA provider would run them, on the CPU: the same bindings, another device.
"""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from periscope_demo.evaluation import EvaluationSet, make_evaluation, measure
from periscope_demo.shipped import SHIPPED_RECIPE, shipped_checkpoint
from periscope_export.engines.cuda_session import CPU, LoadedGraph, graphs_on_gpu, left_to_cpu, missing_provider
from periscope_export.engines.gpu import Tensors, missing_gpu, on_arrays
from periscope_export.engines.runners import tower_runner
from periscope_export.engines.tensorrt_plan import covering, plan_runner
from periscope_export.errors import ExportError
from periscope_export.graphs.precision import Precision
from periscope_export.models.towers import Towers
from periscope_export.published import open_retriever
from periscope_perf.gpu.check import Row, Subject, check, demonstration, table, write
from periscope_perf.gpu.sides import Published, Served
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.colqwen2.reference import ColQwen2Reference
from periscope_testing.qwen2_vl import Qwen2VLSizes

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, run make gpu-check itself")


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "periscope_perf.gpu.check", "--output", str(tmp_path / "results")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gpu-check: no GPU: ")
    assert done.stderr.endswith("Nothing was checked.\n")
    assert not (tmp_path / "results").exists()


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A small retriever of random weights: graphs of one layer. It ranks pages in some order, and without ties."""
    sizes = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64, max_pixels=200704)
    checkpoint = make_colqwen2(tmp_path_factory.mktemp("made") / "checkpoint", sizes, seed=3)
    return Subject("small", checkpoint, SHIPPED_RECIPE, make_evaluation(12, 8))


@pytest.fixture(scope="module")
def rows(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("gpu-check")

    def compiled(repository: Path, wanted: EvaluationSet) -> Served:
        if repository.name.startswith("onnxruntime-"):
            return graphs_on_cpu(repository, wanted)
        assert (repository / "demo_language_model" / "1" / "model.plan").is_file()
        retriever = open_retriever(str(subject.checkpoint), SHIPPED_RECIPE)
        run = tower_runner(Towers(retriever.steps, retriever.checkpoint.weights), "bf16")
        return Served(repository, wanted, run, run, "cpu")

    engines: dict[Precision, str] = {"bf16": "tensorrt-rtx", "fp16": "onnxruntime-cuda"}
    return check(
        folder,
        subject,
        engines,
        compiled,
        lambda: Published(subject.checkpoint, subject.wanted, "cpu"),
        rounds=2,
        say=lambda line: None,
    )


def graphs_on_cpu(repository: Path, wanted: EvaluationSet) -> Served:
    opened: dict[str, LoadedGraph] = {}

    def run(step: str, tensors: Tensors) -> dict[str, torch.Tensor]:
        if step not in opened:
            opened[step] = LoadedGraph(repository / f"demo_{step}" / "1" / "model.onnx", "cpu")
            assert opened[step].operators[CPU].total() > 0
        return opened[step]({name: torch.as_tensor(tensor) for name, tensor in tensors.items()})

    return Served(repository, wanted, on_arrays(run), run, "cpu")


def test_quality_stands_beside_speed(rows: list[Row]) -> None:
    reference, engine, graphs, published = rows
    assert (reference.engine, reference.precision, reference.max_abs_error) == ("onnxruntime", "fp32", 0.0)
    assert (engine.engine, engine.precision) == ("tensorrt-rtx", "bf16")
    # bf16 is near fp32 and not equal to it.
    assert 1e-3 < engine.max_abs_error < 0.1
    assert 0.9 < engine.min_cosine < 1
    # On the CPU fp16 graphs are computed in fp32, between steps they are rounded.
    assert (graphs.engine, graphs.precision) == ("onnxruntime-cuda", "fp16")
    assert 1e-5 < graphs.max_abs_error < 0.01
    # Code that nobody here wrote, of the same vectors in the same order.
    assert (published.engine, published.precision) == ("colpali-engine", "bf16")
    assert 1e-3 < published.max_abs_error < 0.1
    assert "transformers 5" in published.versions
    for row in rows:
        assert (row.weights, row.command) == ("small", "make gpu-check")
        assert row.page_ms > 0
        assert row.query_ms > 0
        assert row.pages_per_s == pytest.approx(1000 / row.page_ms)
    for row in (reference, engine, graphs):
        assert "onnxruntime 1" in row.versions


def test_pages_are_ranked_as_the_published_code_ranks_them(rows: list[Row], subject: Subject) -> None:
    published = ColQwen2Reference(subject.checkpoint)
    queries = published.queries([query.text for query in subject.wanted.queries])
    pages = [published.images([page.image])[0] for page in subject.wanted.pages]
    ndcg5 = measure(published.maxsim(queries, pages), subject.wanted.relevant_QN).ndcg5
    assert rows[0].late_ndcg5 == pytest.approx(ndcg5)
    for row in rows:
        assert abs(row.late_ndcg5 - ndcg5) < 0.05


def test_the_demonstration_is_the_retriever_that_is_shipped() -> None:
    shown = demonstration(3, 2)
    assert (shown.weights, shown.checkpoint, shown.recipe) == ("demo", shipped_checkpoint(), SHIPPED_RECIPE)
    assert shown.trained
    assert (len(shown.wanted.pages), len(shown.wanted.queries)) == (3, 2)


def test_results_are_files_named_by_what_ran_where(rows: list[Row], tmp_path: Path) -> None:
    first, second, third, fourth = write(rows, tmp_path / "results")
    assert first.name.endswith("-small-onnxruntime-fp32.csv")
    assert second.name.endswith("-small-tensorrt-rtx-bf16.csv")
    assert third.name.endswith("-small-onnxruntime-cuda-fp16.csv")
    assert fourth.name.endswith("-small-colpali-engine-bf16.csv")
    with second.open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["max_abs_error"]) == rows[1].max_abs_error
    assert "tensorrt-rtx" in table(rows)


def test_plans_need_a_gpu(tmp_path: Path) -> None:
    assert missing_gpu()
    with pytest.raises(ExportError, match="plans run on a GPU only"):
        plan_runner(tmp_path, "r")


def test_graphs_on_a_gpu_need_one(tmp_path: Path) -> None:
    assert missing_provider() == missing_gpu()
    with pytest.raises(ExportError, match=r"engine: torch .* was built without CUDA"):
        graphs_on_gpu(tmp_path, "r")


def test_work_that_is_left_to_the_cpu_is_named_and_shapes_are_not() -> None:
    left = Counter({"Concat": 5, "Squeeze": 3, "MatMul": 2, "SkipLayerNormalization": 1})
    assert left_to_cpu({"CUDAExecutionProvider": Counter({"MatMul": 9}), CPU: left}) == {
        "MatMul": 2,
        "SkipLayerNormalization": 1,
    }
    assert left_to_cpu({"CUDAExecutionProvider": Counter({"MatMul": 9})}) == {}


def test_the_first_profile_that_covers() -> None:
    profiles = [{"x": [[1, 8], [1, 16], [1, 64]]}, {"x": [[1, 8], [4, 16], [16, 64]]}]
    assert covering(profiles, {"x": (1, 64)}, "m") == 0
    assert covering(profiles, {"x": (2, 8)}, "m") == 1
    with pytest.raises(ExportError, match=r"no profile of m covers \{'x': \(2, 65\)\}"):
        covering(profiles, {"x": (2, 65)}, "m")
