"""`periscope bench` on a whole retriever: the real server, the real perf_analyzer, tables and plots."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from client.standin import write_repository
from e2e.exported import Exported
from periscope_client.console import COMMANDS, main
from periscope_perf.perf_analyzer import PerfAnalyzer
from periscope_perf.results import COLUMNS

SCENARIOS = ["query_throughput", "page_throughput", "mixed"]


@pytest.fixture(scope="module")
def output(small: Exported, analyzer: PerfAnalyzer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick run of three scenarios."""
    folder = tmp_path_factory.mktemp("bench")
    arguments = [f"--scenario={name}" for name in SCENARIOS]
    assert main(["bench", str(small.repository), "--quick", "--output", str(folder), *arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def rows(output: Path) -> list[dict[str, str]]:
    (path,) = output.glob("*.csv")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def part(rows: list[dict[str, str]], scenario: str, name: str) -> list[dict[str, str]]:
    return [row for row in rows if (row["scenario"], row["part"]) == (scenario, name)]


def test_files_are_named_by_date_machine_engine_and_precision(output: Path) -> None:
    (table,) = output.glob("*.csv")
    names = sorted(path.name for path in output.iterdir() if path.is_file())
    assert names == [f"{table.stem}-latency.png", f"{table.stem}-steps.png", table.name]
    assert table.stem[:2] == "20"
    assert table.stem.endswith("-onnxruntime-fp32")


def test_every_level_of_every_scenario_has_a_row(rows: list[dict[str, str]]) -> None:
    found = [(row["scenario"], row["load"]) for row in rows if row["part"] == "request"]
    assert found == [
        ("query_throughput", "concurrency"),
        ("query_throughput", "concurrency"),
        ("query_throughput", "request_rate"),
        ("page_throughput", "concurrency"),
        ("page_throughput", "concurrency"),
        ("mixed", "concurrency"),
    ]
    for row in rows:
        if row["part"] == "request":
            assert float(row["throughput"]) > 0
            assert float(row["p50_us"]) <= float(row["p99_us"])
            assert int(row["requests"]) >= 3
            assert int(row["server_memory_bytes"]) > 1 << 26


def test_steps_are_those_of_the_ensemble(rows: list[dict[str, str]]) -> None:
    steps = part(rows, "page_throughput", "step")
    names = ["preprocess_image", "vision_encoder", "language_model", "late_head", "dense_head"]
    assert [row["model"] for row in steps] == [f"small_{name}" for name in names] * 2
    for row in steps:
        assert float(row["infer_us"]) > 0
        assert int(row["executions"]) > 0
        assert float(row["batch"]) >= 1


def test_pages_were_indexed_while_queries_were_measured(rows: list[dict[str, str]]) -> None:
    (query,) = part(rows, "mixed", "request")
    pages = part(rows, "mixed", "beside")
    assert query["beside"] == "small_embed_image x4"
    assert pages[0]["model"] == "small_embed_image"
    assert float(pages[0]["throughput"]) > 0
    assert "small_vision_encoder" in {row["model"] for row in pages}


def test_every_row_says_what_it_was_measured_with(rows: list[dict[str, str]], small: Exported) -> None:
    fidelity = json.loads((small.repository / "fidelity.json").read_text())
    for row in rows:
        assert list(row) == COLUMNS
        assert row["command"].startswith("perf_analyzer -m small_embed_")
        assert row["triton"] == "2.51.0"
        assert row["fingerprint"] == fidelity["fingerprint"]
        assert float(row["cosine"]) == pytest.approx(fidelity["measured"]["vectors"]["min_cosine"], abs=1e-5)
        assert row["page"] == "140x196"
        assert row["ndcg5"] == ""
        for name in ("date", "machine", "cpu", "cores", "onnxruntime", "python", "periscope", "recipe"):
            assert row[name], name


def test_plots(output: Path) -> None:
    for path in output.glob("*.png"):
        with Image.open(path) as image:
            assert image.width > 1000
            assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20


def test_what_the_repository_does_not_serve(small: Exported, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(small.repository), "--scenario", "rerank_top_20"]) == 1
    assert "serves no small_rerank, only small_embed_text, small_embed_image" in capsys.readouterr().err


def test_an_installation_without_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(COMMANDS, "bench", COMMANDS["bench"]._replace(module="periscope_nowhere.command"))
    assert main(["bench", "models"]) == 1
    assert capsys.readouterr().err == (
        "periscope bench: this installation leaves out the package 'periscope_nowhere', as the images do. "
        "Install all of it, in a checkout of Periscope: pip install '.[perf]'\n"
    )


def test_interrupted(small: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("periscope_perf.perf_analyzer.find", interrupt)
    assert main(["bench", str(small.repository)]) == 130
    assert capsys.readouterr().err.endswith("periscope bench: interrupted\n")


def test_an_output_that_cannot_be_written(small: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for option in ("--output", "--write-configs"):
        assert main(["bench", str(small.repository), option, str(tmp_path / "file" / "new")]) == 1
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith("periscope bench: ")
        assert "Not a directory" in line


def test_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tmp_path / "none")]) == 1
    assert "is no directory. Give the one that `periscope export` wrote" in capsys.readouterr().err


def test_one_of_several_retrievers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = write_repository(tmp_path / "several")
    assert main(["bench", str(repository)]) == 1
    assert "Name one of them (--retriever): bare, flat, judge, rich" in capsys.readouterr().err
    assert main(["bench", str(repository), "--retriever", "judge", "--scenario", "single_query"]) == 1
    assert "serves no judge_embed_text, only judge_rerank" in capsys.readouterr().err
