"""`make bench` from checkpoints to verdicts: a real server, the bare loop, a peer that works and a missing one."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from periscope_export.exporter import Request
from periscope_perf import beside, candidates
from periscope_perf.checkpoints import Checkpoints, Depth, qwen3_vl_embedding
from periscope_perf.machine import machine
from periscope_perf.pages import SMALL_PAGE
from periscope_perf.targets import load_plan

PROCESSOR = load_plan().processor(machine().instructions)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A quick run on one system, with this environment for its peers: it has transformers and no vLLM."""
    folder = tmp_path_factory.mktemp("bench")
    options = ["--candidates", "fp32", "--systems", "colqwen2"]
    options += ["--peers", "transformers-fp32", "vllm-bf16", "--peer-python", sys.executable]
    command = [sys.executable, "-m", "periscope_perf.beside", "--quick", *options]
    command += ["--checkpoints", str(folder / "checkpoints"), "--output", str(folder / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=560, check=False)
    assert done.returncode == 1, done.stderr[-3000:]  # some target needs who is missing
    return done, folder / "results"


def test_it_ends_with_a_line_a_target(quick: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    targets = load_plan().targets_on(PROCESSOR)
    lines = quick[0].stdout.splitlines()[-len(targets) :]
    assert [line.split()[0] for line in lines] == [target.name for target in targets]
    assert all(re.fullmatch(r"[a-z0-9-]+ (missing|[\d.e+-]+) [<>]=[\d.]+ (pass|fail)", line) for line in lines)
    measured = {line.split()[0] for line in lines if " missing " not in line}
    # All but those of candidates and peers that are not here.
    assert measured == {target.name for target in targets if not re.search("bf16|int8|vllm", target.name)}


def test_who_is_missing_is_named(quick: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    out = quick[0].stdout
    assert "failed: colqwen2/vllm-bf16: vllm-bf16: load failed: ModuleNotFoundError: No module named 'vllm'" in out
    assert f"processor: {PROCESSOR}: " in out
    for target in load_plan().targets_on(PROCESSOR):
        if " missing " in next(line for line in out.splitlines() if line.startswith(f"{target.name} ")):
            assert f"missing: {target.name} needs " in out


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


def test_memory_is_looked_at_before_anything_is_measured(quick: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    found = re.search(r"3 contenders are ready. Memory in use: (\S+) of (\S+) GB. .* while idle: ", quick[0].stderr)
    assert found is not None
    assert 0 < float(found[1]) < float(found[2])
    assert quick[0].stderr.index(found[0]) < quick[0].stderr.index("pages/colqwen2/served-fp32 ")


def test_a_picture_lies_beside_the_table(quick: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    (path,) = quick[1].glob("*.png")
    assert path.with_suffix(".csv").is_file()
    with Image.open(path) as image:
        assert image.width > 1000
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20


def test_the_whole_is_kept_as_json(quick: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    data = json.loads(next(quick[1].glob("*-beside-peers.json")).read_text(encoding="utf-8"))
    assert data["processor"] == PROCESSOR
    assert data["best"] == "fp32"
    assert data["contenders"]["colqwen2/bare-fp32"]["onnxruntime"]
    assert set(data["failures"]) == {"colqwen2/vllm-bf16"}
    assert data["figures"]["weights/colqwen2/served-fp32"][0] > 1e6
    assert data["figures"]["share-of-peak/colqwen2/served-fp32"][0] > 0
    assert len(data["targets"]) == len(load_plan().targets_on(PROCESSOR))


def test_everyone_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--full-depth`, with small checkpoints in the place of those of the published depth."""
    asked: list[Depth] = []

    def make(folder: Path, depth: Depth) -> Checkpoints:
        asked.append(depth)
        return qwen3_vl_embedding(folder, "small")

    monkeypatch.setitem(beside.SYSTEMS, "qwen3_vl_embedding", make)
    options = ["--full-depth", "--candidates", "fp32", "--systems", "qwen3_vl_embedding", "--peers"]
    options += ["--checkpoints", str(tmp_path / "checkpoints"), "--output", str(tmp_path / "results")]
    plan = tmp_path / "plan.yaml"
    small = load_plan().model_dump(mode="json")
    small["systems"]["qwen3_vl_embedding"]["page"] = SMALL_PAGE
    plan.write_text(yaml.safe_dump(small), encoding="utf-8")
    # The other tests have it.
    monkeypatch.setattr(beside, "demonstration", lambda plan, conditions, findings, say: list(plan.candidates))
    assert beside.main([*options, "--plan", str(plan), "--scratch", str(tmp_path)]) == 1
    (path,) = (tmp_path / "results").glob("*-beside-peers-full-depth.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["best"] == "fp32"
    assert asked == ["full"]
    for contender in ("served-fp32", "bare-fp32"):
        assert len(data["figures"][f"pages/qwen3_vl_embedding/{contender}"]) == 1
    assert not [name for name in data["figures"] if name.startswith("prepare/")]
    assert (tmp_path / "checkpoints" / "full" / "qwen3-vl-embedding").is_dir()
    assert not list(tmp_path.glob("periscope-bench-*"))


def test_the_disk_holds_one_repository_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(request: Request) -> list[str]:
        request.output.mkdir(parents=True)
        return []

    monkeypatch.setattr(candidates, "in_another_process", write)
    plan = load_plan()
    found = candidates.exports(tmp_path, "colqwen2", plan, tmp_path / "all", print, one_at_a_time=True)
    for candidate, exported in found.items():
        assert exported() == tmp_path / "all" / candidate.name
        assert [path.name for path in (tmp_path / "all").iterdir()] == [candidate.name]
    several = candidates.exports(tmp_path, "colqwen2", plan, tmp_path / "some", print, one_at_a_time=False)
    assert len({exported() for exported in several.values()}) == len(list((tmp_path / "some").iterdir()))
