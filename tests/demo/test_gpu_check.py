"""`make gpu-check` without a GPU: engines are compiled all the same, and the towers in bf16 stand for them."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from periscope_demo.checkpoint import SHIPPED_RECIPE, shipped_checkpoint
from periscope_demo.gpu_check import Row, Served, check, table, write
from periscope_export.errors import ExportError
from periscope_export.published import open_retriever
from periscope_export.runners import tower_runner
from periscope_export.tensorrt_run import covering, missing_gpu, plan_runner

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, run make gpu-check itself")


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "periscope_demo.gpu_check", "--output", str(tmp_path / "results")],
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
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    folder = tmp_path_factory.mktemp("gpu-check")

    def compiled(repository: Path) -> Served:
        assert (repository / "demo_language_model" / "1" / "model.plan").is_file()
        run = tower_runner(open_retriever(str(shipped_checkpoint()), SHIPPED_RECIPE), "bf16")
        return Served(repository, run, run, "cpu")

    return check(folder, "tensorrt-rtx", ["bf16"], compiled, size=(12, 8), rounds=2, say=lambda line: None)


def test_quality_stands_beside_speed(rows: list[Row]) -> None:
    reference, engine = rows
    assert (reference.engine, reference.precision, reference.max_abs_error) == ("onnxruntime", "fp32", 0.0)
    assert (engine.engine, engine.precision) == ("tensorrt-rtx", "bf16")
    # bf16 is near fp32 and not equal to it.
    assert 1e-3 < engine.max_abs_error < 0.1
    assert 0.9 < engine.min_cosine < 1
    assert reference.late_ndcg5 > 0.9
    assert abs(engine.late_ndcg5 - reference.late_ndcg5) < 0.05
    for row in rows:
        assert row.page_ms > 0
        assert row.query_ms > 0
        assert row.pages_per_s == pytest.approx(1000 / row.page_ms)
        assert "onnxruntime 1" in row.versions


def test_results_are_files_named_by_what_ran_where(rows: list[Row], tmp_path: Path) -> None:
    first, second = write(rows, tmp_path / "results")
    assert first.name.endswith("-onnxruntime-fp32.csv")
    assert second.name.endswith("-tensorrt-rtx-bf16.csv")
    with second.open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["max_abs_error"]) == rows[1].max_abs_error
    assert "tensorrt-rtx" in table(rows)


def test_plans_need_a_gpu(tmp_path: Path) -> None:
    assert missing_gpu()
    with pytest.raises(ExportError, match="plans run on a GPU only"):
        plan_runner(tmp_path, "r")


def test_the_first_profile_that_covers() -> None:
    profiles = [{"x": [[1, 8], [1, 16], [1, 64]]}, {"x": [[1, 8], [4, 16], [16, 64]]}]
    assert covering(profiles, {"x": (1, 64)}, "m") == 0
    assert covering(profiles, {"x": (2, 8)}, "m") == 1
    with pytest.raises(ExportError, match=r"no profile of m covers \{'x': \(2, 65\)\}"):
        covering(profiles, {"x": (2, 65)}, "m")
