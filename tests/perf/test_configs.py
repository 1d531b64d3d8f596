"""Files of `--write-configs` for a deployment: commands that a shell reads, files that Model Analyzer reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.standin import write_repository
from periscope_client.console import main
from periscope_perf import scenario

# The written fields that Model Analyzer 1.58 knows.
MODEL_ANALYZER = {
    "triton_launch_mode",
    "triton_http_endpoint",
    "triton_grpc_endpoint",
    "triton_metrics_url",
    "client_protocol",
    "override_output_model_repository",
    "run_config_search_mode",
    "run_config_search_min_concurrency",
    "run_config_search_max_concurrency",
    "run_config_search_max_instance_count",
    "run_config_search_max_model_batch_size",
    "cpu_only_composing_models",
    "profile_models",
}

# It runs until it is interrupted where it is told to run for ever.
FAKE = """#!{python}
import signal, sys
with open("{calls}", "a") as file:
    print(*sys.argv[1:], file=file)
if "--max-trials=1000000" in sys.argv:
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    signal.pause()
with open(sys.argv[sys.argv.index("-f") + 1], "w") as file:
    print("Concurrency,Inferences/Second", "1,40", sep="\\n", file=file)
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("configs")
    repository = write_repository(folder / "repository")
    arguments = ["--retriever", "rich", "--write-configs", str(folder / "configs"), "--url", "triton.example:9001"]
    assert main(["bench", str(repository), *arguments]) == 0
    return folder / "configs"


def test_a_folder_a_scenario(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == set(scenario.names())


@pytest.mark.parametrize("name", scenario.names())
def test_the_commands_are_a_script(written: Path, name: str) -> None:
    script = written / name / "perf_analyzer.sh"
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert script.stat().st_mode & 0o111


@pytest.mark.parametrize("name", scenario.names())
def test_the_script_calls_perf_analyzer_for_every_level(written: Path, name: str, tmp_path: Path) -> None:
    """Run, with a stand-in that writes a table and remembers how it was called."""
    fake = tmp_path / "perf_analyzer"
    fake.write_text(FAKE.format(python=sys.executable, calls=tmp_path / "calls"))
    fake.chmod(0o755)
    script = (written / name / "perf_analyzer.sh").read_text().replace("sleep 10", "sleep 1")
    (written / name / "quick.sh").write_text(script)
    done = subprocess.run(
        ["bash", str(written / name / "quick.sh")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")

    calls = (tmp_path / "calls").read_text().splitlines()
    sweep = scenario.load(name).deployment
    beside = scenario.load(name).background is not None
    assert len(calls) == len(sweep.concurrency) + len(sweep.request_rates) + beside
    assert all("-u triton.example:9001" in call and "-m rich_" in call for call in calls)
    rates = [float(call.partition("--request-rate-range=")[2].split()[0]) for call in calls if "rate-range" in call]
    assert rates == pytest.approx([40 * share for share in sweep.request_rates])


@pytest.mark.parametrize("name", ["single_query", "query_throughput", "page_throughput"])
def test_model_analyzer(written: Path, name: str) -> None:
    data: dict[str, Any] = yaml.safe_load((written / name / "model_analyzer.yaml").read_text())
    assert set(data) == MODEL_ANALYZER
    assert data["triton_launch_mode"] == "remote"
    assert data["triton_http_endpoint"] == "triton.example:8000"
    assert data["triton_metrics_url"] == "http://triton.example:8002/metrics"
    (model,) = data["profile_models"]
    assert model == f"rich_{scenario.load(name).load.ensemble}"
    assert data["cpu_only_composing_models"] == ["standin_encoder"]
    assert data["run_config_search_max_model_batch_size"] == 8


def test_what_model_analyzer_cannot_do_is_left_to_the_commands(written: Path) -> None:
    assert {path.parent.name for path in written.rglob("model_analyzer.yaml")} == {
        "single_query",
        "query_throughput",
        "page_throughput",
    }


def test_input_data_lies_beside(written: Path) -> None:
    data = json.loads((written / "mixed" / "beside.json").read_text())["data"]
    assert [list(request) for request in data] == [["IMAGE"]] * 16
    lists = json.loads((written / "rerank_top_20" / "requests.json").read_text())["data"]
    assert {len(request) for request in lists} == {2}


def test_an_address_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = write_repository(tmp_path / "repository")
    arguments = ["--retriever", "toy", "--write-configs", str(tmp_path / "configs"), "--url", "triton.example"]
    assert main(["bench", str(repository), *arguments]) == 1
    assert "--url: 'triton.example' is not HOST:PORT" in capsys.readouterr().err
