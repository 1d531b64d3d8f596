"""`make bench` from checkpoints to verdicts: a real server, the bare loop, a peer that works and a missing one."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from periscope_perf.targets import load_plan


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A quick run on one system, with this environment for its peers: it has transformers and no vLLM."""
    folder = tmp_path_factory.mktemp("bench")
    options = ["--systems", "colqwen2", "--peers", "transformers-fp32", "vllm-bf16", "--peer-python", sys.executable]
    command = [sys.executable, "-m", "periscope_perf.beside", "--quick", *options]
    command += ["--checkpoints", str(folder / "checkpoints"), "--output", str(folder / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 1, done.stderr[-3000:]  # some target needs who is missing
    return done, folder / "results"


def test_it_ends_with_a_line_a_target(quick: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    targets = load_plan().targets
    lines = quick[0].stdout.splitlines()[-len(targets) :]
    assert [line.split()[0] for line in lines] == [target.name for target in targets]
    assert all(re.fullmatch(r"[a-z0-9-]+ (missing|[\d.e+-]+) [<>]=[\d.]+ (pass|fail)", line) for line in lines)
    measured = {line.split()[0] for line in lines if " missing " not in line}
    # All but those against bf16 peers, none of which is here.
    assert measured == {target.name for target in targets if "bf16" not in target.name} - {"query-p50-against-vllm"}


def test_who_is_missing_is_named(quick: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    out = quick[0].stdout
    assert "failed: colqwen2/vllm-bf16: vllm-bf16: load failed: ModuleNotFoundError: No module named 'vllm'" in out
    assert "missing: pages-best-against-transformers-bf16 needs pages/colqwen2/transformers-bf16" in out


def test_quality_and_versions_stand_beside_every_figure(
    quick: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    with next(quick[1].glob("*-beside-peers.csv")).open(encoding="utf-8") as file:
        rows = {row["figure"]: row for row in csv.DictReader(file)}
    for kind in ("pages", "query"):
        for contender in ("served-fp32", "bare-fp32", "transformers-fp32"):
            row = rows[f"{kind}/colqwen2/{contender}"]
            assert float(row["median"]) > 0
            assert float(row["cosine"]) > 0.99999
            assert float(row["same_order"]) == 1.0
    assert 0 < float(rows["pages/colqwen2/served-fp32"]["demo_ndcg5"]) <= 1
    assert "transformers 5" in rows["pages/colqwen2/transformers-fp32"]["versions"]
    assert all(row["machine"] and row["measured_at"] and row["versions"] for row in rows.values())
    assert all("periscope_perf.beside --quick" in row["command"] for row in rows.values())


def test_the_whole_is_kept_as_json(quick: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    data = json.loads(next(quick[1].glob("*-beside-peers.json")).read_text(encoding="utf-8"))
    assert data["best"] == "fp32"
    assert data["contenders"]["colqwen2/bare-fp32"]["onnxruntime"]
    assert set(data["failures"]) == {"colqwen2/vllm-bf16"}
    assert data["figures"]["weights/colqwen2/served-fp32"][0] > 1e6
    assert len(data["targets"]) == len(load_plan().targets)
