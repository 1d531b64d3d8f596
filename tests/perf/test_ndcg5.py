"""The column `ndcg5`: where it comes from, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from periscope_perf import candidates, ndcg5
from periscope_perf.interleaved import SideError
from periscope_perf.targets import Candidate, load_plan


def test_an_engine_that_cannot_be_exported_here(tmp_path: Path) -> None:
    lines: list[str] = []
    assert ndcg5.as_served("onnxruntime", "int3", tmp_path, lines.append) is None
    assert lines[0] == "nDCG@5 of the demonstration's retriever in onnxruntime int3"
    assert lines[1].startswith("without ndcg5: ")
    assert "int3" in lines[1]
    assert len(lines) == 2


def test_it_is_measured_in_the_size_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(candidate: Candidate, plan: object, folder: Path, say: object) -> float:
        assert (candidate.name, plan, folder) == ("fp32", load_plan().quality, tmp_path)
        return 0.9

    arguments = ["--engine", "onnxruntime", "--precision", "fp32", "--scratch", str(tmp_path)]
    monkeypatch.setattr(candidates, "ndcg5", measure)
    assert ndcg5.main(arguments) == 0
    assert capsys.readouterr().out == "nDCG@5: 0.900000\n"

    def fail(*arguments: object) -> float:
        raise SideError("export: no such kernel\nand more")

    monkeypatch.setattr(candidates, "ndcg5", fail)
    assert ndcg5.main(arguments) == 1
    assert capsys.readouterr().err == "export: no such kernel\n"


def test_without_what_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "periscope_perf.candidates", None)
    assert ndcg5.main(["--engine", "onnxruntime", "--precision", "fp32", "--scratch", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith(
        "Install what it takes, in a checkout of Periscope: pip install '.[perf,demo]'\n"
    )
