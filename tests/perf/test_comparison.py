"""Groups after each other: who is started with whom, and whose figures remain."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from periscope_perf import comparison
from periscope_perf.comparison import Comparison
from periscope_perf.contenders import Conditions
from periscope_perf.findings import Findings
from periscope_perf.peers.host import Answered
from periscope_perf.targets import FP32, Candidate

INT8 = Candidate(engine="openvino", precision="int8")
FILES = [Path("a.png"), Path("b.png")]


class Fake:
    """Embeds everything as the same vectors, in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def pages(self, files: Sequence[Path]) -> Answered:
        return Answered(self.seconds, [np.eye(3, dtype=np.float32) for _ in files])

    def queries(self, texts: Sequence[str]) -> Answered:
        return Answered(self.seconds, [np.eye(3, dtype=np.float32) for _ in texts])


class Fakes:
    """Contenders; one that is started again is slower."""

    candidates = (FP32, INT8)
    peers = ("transformers-fp32", "vllm-bf16")

    def __init__(self) -> None:
        self.started: list[list[str]] = []

    def start(self, names: Sequence[str], running: ExitStack) -> dict[str, Fake]:
        self.started.append(list(names))
        return {name: Fake(float(len(self.started))) for name in names}


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "IDLE_SECONDS", 0.01)


def compared(tmp_path: Path, alone: bool) -> tuple[Any, Findings]:
    fakes: Any = Fakes()
    findings = Findings()
    conditions = Conditions(threads=2, rounds=2, reference="transformers-fp32", scratch=tmp_path, alone=alone)
    run = Comparison("colqwen2", fakes, FILES, ["query"], 1e9, conditions, findings, print)
    run.run(lambda: INT8.name if findings.figures else pytest.fail("asked before candidates were measured"))
    return fakes.started, findings


def test_candidates_first_then_the_best_beside_the_peers(tmp_path: Path) -> None:
    started, findings = compared(tmp_path, alone=False)
    assert started == [
        ["served-fp32", "served-openvino-int8"],
        ["served-fp32", "transformers-fp32"],
        ["served-openvino-int8", "bare-openvino-int8", "vllm-bf16"],
    ]
    # Two pages in as many seconds as groups were started: figures are those of the last group.
    rates = {name.rpartition("/")[2]: values for name, values in findings.figures.items() if name.startswith("pages/")}
    assert rates == {
        "served-fp32": [1.0, 1.0],
        "transformers-fp32": [1.0, 1.0],
        "served-openvino-int8": [2 / 3, 2 / 3],
        "bare-openvino-int8": [2 / 3, 2 / 3],
        "vllm-bf16": [2 / 3, 2 / 3],
    }
    assert findings.figures["gflops/colqwen2/vllm-bf16"] == [2 / 3, 2 / 3]
    # vLLM pools the last token of this system, and is not compared.
    assert set(findings.closeness) == {f"colqwen2/{name}" for name in rates if name != "vllm-bf16"}


def test_everyone_alone(tmp_path: Path) -> None:
    started, findings = compared(tmp_path, alone=True)
    assert [names[0] for names in started] == [
        *("served-fp32", "bare-fp32", "served-openvino-int8", "bare-openvino-int8"),
        *("transformers-fp32", "vllm-bf16"),
    ]
    assert all(len(names) == 1 for names in started)
    assert len(findings.figures["pages/colqwen2/vllm-bf16"]) == 2
