"""Reports of perf_analyzer 2.50, recorded: one level of concurrency and one request rate on a small retriever."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from periscope_perf import report
from periscope_perf.errors import ReportError
from periscope_perf.report import Latency, Spent

RECORDED = Path(__file__).parent / "recorded"
TABLE = RECORDED / "concurrency-4.csv"
STEPS = ("tiny_preprocess_text", "tiny_language_model", "tiny_late_head", "tiny_dense_head")


def test_the_table_of_a_level() -> None:
    spent, latency = report.read(TABLE, "concurrency")
    assert spent == Spent(358.161, queue=4, input=87, infer=5312, output=836)
    assert latency == Latency(p50=9906, p90=16473, p95=21543, p99=34308, gpu_utilisation=None, gpu_memory=None)


def test_the_tables_of_the_steps() -> None:
    steps = report.read_steps(TABLE, "concurrency", STEPS)
    assert steps["tiny_language_model"] == Spent(358.161, queue=2689, input=21, infer=2563, output=299)
    assert list(steps) == list(STEPS)


def test_the_table_of_a_request_rate() -> None:
    spent, latency = report.read(RECORDED / "request_rate-179.081.csv", "request_rate")
    assert (spent.throughput, latency.p99) == (171.557, 58341)


def test_the_windows_and_the_count() -> None:
    output = (RECORDED / "concurrency-4.log").read_text()
    assert report.read_passes(output) == [(247.835, 33443), (415.361, 14657), (413.505, 14553)]
    assert report.read_count(output) == 1091


def test_gpus(tmp_path: Path) -> None:
    """One value a GPU, as perf_analyzer's documentation shows them; recorded on a machine without GPUs, so made up."""
    row = TABLE.read_text().rstrip()
    assert row.endswith(",,,,")
    columns = ["GPU-a:0.5;GPU-b:0.7;", "GPU-a:60;GPU-b:60;", "GPU-a:1e9;GPU-b:3e9;", "GPU-a:8e9;GPU-b:8e9;"]
    (tmp_path / "gpu.csv").write_text(f"{row.removesuffix(',,,,')},{','.join(columns)}\n")
    _, latency = report.read(tmp_path / "gpu.csv", "concurrency")
    assert (latency.gpu_utilisation, latency.gpu_memory) == (0.6, 2e9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Concurrency,", "Request Rate,", "its columns are Request Rate,.* and should be Concurrency,"),
        ("p50 latency,", "", "its columns are"),
        (",9906,", ",fast,", "column 'p50 latency' is 'fast', no number"),
        ("\n4,", "\n4,1,", "holds 1 rows, or an incomplete one"),
        ("\n4,", "\n", "holds 1 rows, or an incomplete one"),
    ],
)
def test_a_table_that_is_not_as_it_should_be(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = TABLE.read_text()
    assert old in text
    (tmp_path / "table.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(ReportError, match=message):
        report.read(tmp_path / "table.csv", "concurrency")


def test_two_levels_in_a_table_are_refused(tmp_path: Path) -> None:
    text = TABLE.read_text().rstrip()
    (tmp_path / "table.csv").write_text(f"{text}\n{text.splitlines()[1]}\n")
    with pytest.raises(ReportError, match="holds 2 rows"):
        report.read(tmp_path / "table.csv", "concurrency")


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"none.csv: perf_analyzer did not write it"):
        report.read(tmp_path / "none.csv", "concurrency")


def test_a_step_without_a_table(tmp_path: Path) -> None:
    shutil.copy(TABLE, tmp_path)
    with pytest.raises(ReportError, match="wrote 0 tables of the step 'tiny_preprocess_text'"):
        report.read_steps(tmp_path / TABLE.name, "concurrency", STEPS)


@pytest.mark.parametrize("output", ["", "Pass one"])
def test_output_without_windows(output: str) -> None:
    with pytest.raises(ReportError, match="printed no window"):
        report.read_passes(output)
    with pytest.raises(ReportError, match="printed 0 counts"):
        report.read_count(output)
