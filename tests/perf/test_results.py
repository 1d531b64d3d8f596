"""The results file: frozen columns, rows below rows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from periscope_perf import plots, results
from periscope_perf.errors import ReportError
from periscope_perf.results import COLUMNS, Row, Setting

# Files of earlier versions are compared with those of later ones.
FROZEN = [
    *("scenario", "part", "model", "load", "level", "beside", "items", "stable", "spread", "requests", "throughput"),
    *("items_per_s", "p50_us", "p90_us", "p95_us", "p99_us", "queue_us", "input_us", "infer_us", "output_us"),
    *("executions", "batch", "gpu_utilisation", "gpu_memory_bytes", "server_memory_bytes", "command", "date"),
    *("machine", "cpu", "cores", "instructions", "memory_gb", "gpu", "triton", "onnxruntime", "python", "periscope"),
    *("commit", "retriever", "recipe", "fingerprint", "engine", "precision", "cosine", "rank_agreement", "ndcg5"),
    *("page", "server_start_s"),
]

SETTING = Setting(
    date="2026-01-02T03:04:05+00:00",
    machine="some-cpu-2-cores",
    cpu="Some CPU",
    cores=2,
    instructions="avx2",
    memory_gb=8.0,
    gpu="",
    triton="2.51.0",
    onnxruntime="1.32.0",
    python="3.11.7",
    periscope="0.1.0",
    commit="",
    retriever="toy",
    recipe="toy",
    fingerprint="f",
    engine="onnxruntime",
    precision="int8",
    cosine=0.99951,
    rank_agreement=None,
    ndcg5=0.91234,
    page="640x896",
    server_start_s=2.345678901,
)
ROW = Row("single_query", "request", "toy_embed_text", "concurrency", 1, "", 1, True, throughput=12.3456789)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns() -> None:
    assert COLUMNS == FROZEN


def test_the_name_of_the_file() -> None:
    assert SETTING.stem() == "2026-01-02-some-cpu-2-cores-onnxruntime-int8"


def test_a_row(tmp_path: Path) -> None:
    results.write(tmp_path / "r.csv", SETTING, [ROW])
    (row,) = read(tmp_path / "r.csv")
    assert row["throughput"] == "12.3457"
    assert (row["stable"], row["rank_agreement"], row["p50_us"], row["level"]) == ("yes", "", "", "1")


def test_rows_of_a_later_run_come_below(tmp_path: Path) -> None:
    results.write(tmp_path / "r.csv", SETTING, [ROW])
    results.write(tmp_path / "r.csv", SETTING, [replace(ROW, stable=False)])
    assert [row["stable"] for row in read(tmp_path / "r.csv")] == ["yes", "no"]


def test_a_file_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ReportError, match=r"has other columns than this version writes. Move it away"):
        results.write(tmp_path / "r.csv", SETTING, [ROW])
    assert (tmp_path / "r.csv").read_text() == "a,b\n1,2\n"


def test_nothing_to_plot(tmp_path: Path) -> None:
    assert plots.write(tmp_path, SETTING, []) == []


def test_unstable_levels_are_plotted_by_what_they_have(tmp_path: Path) -> None:
    rows = [replace(ROW, stable=False, items_per_s=12.0, p50_us=100.0), replace(ROW, level=2, p50_us=None)]
    (path,) = plots.write(tmp_path, SETTING, rows)
    assert path.name == "2026-01-02-some-cpu-2-cores-onnxruntime-int8-latency.png"
