"""Calling, finding and running perf_analyzer, with the binary where it is needed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perf.checker import MOST_CANDIDATES, write_checker
from periscope_perf import inputs, perf_analyzer, served
from periscope_perf.errors import MissingToolError, RunError
from periscope_perf.machine import memory_of
from periscope_perf.measure import Bench, Settings, Target
from periscope_perf.pages import SMALL_PAGE, page_files, queries
from periscope_perf.perf_analyzer import Call, Level, PerfAnalyzer
from periscope_perf.scenario import load
from periscope_perf.served import Served
from periscope_serve.server import Server

CALL = Call(
    model="check_embed_text",
    data="in.json",
    table="out.csv",
    level=Level("concurrency", 2),
    window=5,
    percentile=95,
    stability=500,
    trials=5,
    grpc_url="127.0.0.1:1",
    metrics_url="127.0.0.1:2/metrics",
)


def test_a_command() -> None:
    assert shlex.split(CALL.text()) == [
        *("perf_analyzer", "-m", "check_embed_text", "-u", "127.0.0.1:1", "-i", "grpc", "-b", "1"),
        *("--input-data", "in.json", "--concurrency-range=2"),
        *("--measurement-mode=count_windows", "--measurement-request-count=5", "--percentile=95"),
        *("--stability-percentage=500", "--max-trials=5", "-f", "out.csv", "--verbose-csv", "-v"),
        *("--collect-metrics", "--metrics-url", "127.0.0.1:2/metrics"),
    ]


def test_a_command_at_a_rate_that_keeps_its_requests() -> None:
    command = replace(CALL, level=Level("request_rate", 2.5), requests_file="each.json").command()
    assert {"--request-rate-range=2.5", "--request-distribution=poisson"} < set(command)
    assert command[-2:] == ["--profile-export-file", "each.json"]


def test_its_libraries_come_first() -> None:
    assert perf_analyzer.environment("/a", {})["LD_LIBRARY_PATH"] == "/a"
    assert perf_analyzer.environment("/a", {"LD_LIBRARY_PATH": "/b:/c"})["LD_LIBRARY_PATH"] == "/a:/b:/c"


def test_what_it_complained_of() -> None:
    output = "Request concurrency: 2\nWARNING: noise\nFailed.\nThread [0] had error: bad\n\nThread [1] had error: bad\n"
    assert perf_analyzer.reason(output) == "Failed. bad"
    assert perf_analyzer.reason("") == "it said nothing"


def test_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(perf_analyzer, "FOLDER", Path("no-such-folder"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingToolError, match="Install it: make perf"):
        perf_analyzer.find()


def test_installed_and_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".perf/bin").mkdir(parents=True)
    binary = tmp_path / ".perf/bin/perf_analyzer"
    binary.write_text("#!/bin/sh\necho libb64.so.0d: cannot open shared object file >&2\nexit 127\n")
    binary.chmod(0o755)
    with pytest.raises(
        MissingToolError, match=r"does not start \(libb64.so.0d: cannot open .*install again: make perf"
    ):
        perf_analyzer.find()


def everything_sent() -> list[bytes]:
    texts = [query.encode() for query in queries(256)]
    return texts + page_files(20, SMALL_PAGE)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return served.read(write_checker(tmp_path_factory.mktemp("checker"), everything_sent()))


@pytest.fixture(scope="module")
def server(checked: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "triton.log"
    with Server([checked.repository], grpc_port=0, http_port=0, metrics_port=0, log=log) as running:
        yield running


@pytest.mark.parametrize("name", ["single_query", "page_throughput", "rerank_top_20"])
def test_the_server_decodes_what_was_written(
    name: str, checked: Served, server: Server, analyzer: PerfAnalyzer, tmp_path: Path
) -> None:
    """Every string that arrives is one of the pages and queries, to the byte; else the model refuses the request."""
    said: list[str] = []
    target = Target(server.grpc_url, server.metrics_url, lambda: memory_of(server.pid))
    bench = Bench(checked, target, analyzer, Settings("quick", SMALL_PAGE), said.append)
    rows = list(bench.measure(load(name), tmp_path / name))
    requests = [row for row in rows if row.part == "request"]
    assert len(requests) == len(said) == len(load(name).quick.concurrency)
    for row in requests:
        assert row.throughput is not None
        assert row.throughput > 0
        assert row.items == (7 if name == "rerank_top_20" else 1)
        assert row.level == (3 if name == "rerank_top_20" else row.level)
    assert MOST_CANDIDATES == 8


def test_a_request_that_the_server_refuses(server: Server, analyzer: PerfAnalyzer, tmp_path: Path) -> None:
    inputs.write(tmp_path / "in.json", [{"TEXT": [b"unheard of"]}])
    call = replace(CALL, grpc_url=server.grpc_url, metrics_url=f"{server.metrics_url}/metrics")
    with pytest.raises(
        RunError, match=r"status 99: .*TEXT holds a string of 10 bytes that nobody sent.* Its command was"
    ):
        analyzer.run(call, tmp_path)


def test_windows_that_do_not_agree(server: Server, analyzer: PerfAnalyzer, tmp_path: Path) -> None:
    inputs.write(tmp_path / "in.json", [{"TEXT": [queries(1)[0].encode()]}])
    call = replace(CALL, grpc_url=server.grpc_url, metrics_url=f"{server.metrics_url}/metrics", stability=0, trials=3)
    run = analyzer.run(call, tmp_path)
    assert not run.stable
    assert "Pass [3]" in run.output
    assert not (tmp_path / call.table).exists()


def test_a_load_that_ends_by_itself(server: Server, analyzer: PerfAnalyzer, tmp_path: Path) -> None:
    inputs.write(tmp_path / "in.json", [{"TEXT": [b"unheard of"]}])
    message = r"check_embed_text: the load beside the measurement ended with status 99: .*nobody sent"
    with (
        pytest.raises(RunError, match=message),
        analyzer.beside("check_embed_text", "in.json", 2, server.grpc_url, tmp_path) as beside,
    ):
        beside.process.wait(30)
