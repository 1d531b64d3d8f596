"""The scenarios for a deployment: input data, perf_analyzer command lines, and files for NVIDIA's Model Analyzer.

One folder a scenario. Model Analyzer searches numbers of instances, batch sizes and concurrencies of an ensemble, on a
running server ("remote") whose models it loads again and again. It knows neither a load beside the measured one nor an
ensemble without rows, so `mixed` and reranking have command lines only.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import yaml

from periscope_perf.errors import ScenarioError
from periscope_perf.measure import BESIDE, REQUESTS, Settings, Target, concurrencies, make_call, write_inputs
from periscope_perf.pages import PAGE
from periscope_perf.perf_analyzer import Level, beside_command
from periscope_perf.scenario import Scenario
from periscope_perf.served import Served

SCRIPT = "perf_analyzer.sh"
MODEL_ANALYZER = "model_analyzer.yaml"

_SETTINGS = Settings("deployment", PAGE)

# Copies of a model that Model Analyzer tries at the most: the weights of each are in the GPU's memory.
_INSTANCES = 2

_MODEL_ANALYZER_HEADER = """\
# {description}.
# Written by `periscope bench --write-configs`. In this folder: model-analyzer profile -f model_analyzer.yaml
# The server must run with --model-control-mode=explicit --load-model=*, and serve nobody else meanwhile: its models are
# unloaded and loaded with other settings.
"""

_HEADER = """\
#!/usr/bin/env bash
# {description}.
# Written by `periscope bench --write-configs`. perf_analyzer is in NVIDIA's image tritonserver:<version>-py3-sdk.
set -euo pipefail
cd "$(dirname "$0")"
"""

_BESIDE = """
# The load beside the measurement; it is interrupted at the end, and waits for its answers.
{command} >beside.log 2>&1 &
beside=$!
trap 'kill -INT "$beside" 2>/dev/null || true; wait "$beside" || true' EXIT
sleep 10
"""

_BESIDE_CHECK = """
# The load was there to the end, or the figures above are of an idle server.
kill -0 "$beside"
"""

_RATES = """
# Random arrivals, in shares of the highest throughput above.
highest=$(awk -F, 'FNR > 1 && $2 > most { most = $2 } END { print most }' concurrency-*.csv)
for share in %s; do
  rate=$(awk -v highest="$highest" -v share="$share" 'BEGIN { print highest * share }')
  %s
done
"""


def write(folder: Path, scenarios: list[Scenario], served: Served, url: str) -> None:
    """Write a folder for each scenario. `url`: host:port of the deployment's gRPC. Raises: ScenarioError."""
    host, _, port = url.rpartition(":")
    if not host or not port.isdecimal():
        raise ScenarioError(f"--url: {url!r} is not HOST:PORT. Give the gRPC address, for instance triton.example:8001")
    target = Target(url, f"{host}:8002", lambda: 0)
    for scenario in scenarios:
        place = folder / scenario.name
        place.mkdir(parents=True, exist_ok=True)
        write_inputs(scenario, served, PAGE, place)
        (place / SCRIPT).write_text(script(scenario, served, target), encoding="utf-8")
        (place / SCRIPT).chmod(0o755)
        if scenario.background is None and served.ensemble(scenario.load).rows:
            text = model_analyzer(scenario, served, target, f"{host}:8000")
            (place / MODEL_ANALYZER).write_text(text, encoding="utf-8")


def script(scenario: Scenario, served: Served, target: Target) -> str:
    """The commands of a scenario, as a shell script that is run beside its input data."""
    ensemble = served.ensemble(scenario.load)
    text = _HEADER.format(description=scenario.description)
    if scenario.background:
        beside = served.ensemble(scenario.background.load)
        command = beside_command(beside.name, BESIDE, scenario.background.concurrency, target.grpc_url)
        text += _BESIDE.format(command=shlex.join(command))
    text += "\n"
    for level in concurrencies(scenario, ensemble, "deployment"):
        text += make_call(scenario, ensemble, level, _SETTINGS, target).text() + "\n"
    rates = scenario.sweep("deployment").request_rates
    if rates:
        # The level is a number that the script computes.
        command = make_call(scenario, ensemble, Level("request_rate", 0), _SETTINGS, target).command()
        command = [part.replace("request-rate-range=0", "request-rate-range=$rate") for part in command]
        command = [part.replace("request_rate-0.csv", "request_rate-$share.csv") for part in command]
        line = " ".join(f'"{part}"' if "$" in part else shlex.quote(part) for part in command)
        text += _RATES % (" ".join(map(str, rates)), line)
    return text + (_BESIDE_CHECK if scenario.background else "")


def model_analyzer(scenario: Scenario, served: Served, target: Target, http_url: str) -> str:
    """The file for `model-analyzer profile -f`, run beside the scenario's input data."""
    ensemble = served.ensemble(scenario.load)
    sweep = scenario.sweep("deployment")
    data = {
        "triton_launch_mode": "remote",
        "triton_http_endpoint": http_url,
        "triton_grpc_endpoint": target.grpc_url,
        "triton_metrics_url": f"http://{target.metrics_url}/metrics",
        "client_protocol": "grpc",
        "override_output_model_repository": True,
        # The only search that it has for ensembles.
        "run_config_search_mode": "quick",
        "run_config_search_min_concurrency": sweep.concurrency[0],
        "run_config_search_max_concurrency": sweep.concurrency[-1],
        "run_config_search_max_instance_count": _INSTANCES,
        "run_config_search_max_model_batch_size": ensemble.rows,
        "cpu_only_composing_models": list(ensemble.python_steps),
        "profile_models": {
            ensemble.name: {
                "perf_analyzer_flags": {
                    "input-data": REQUESTS,
                    "measurement-mode": "count_windows",
                    "measurement-request-count": sweep.window,
                    "stability-percentage": sweep.stability,
                    "percentile": scenario.percentile,
                },
            }
        },
    }
    return _MODEL_ANALYZER_HEADER.format(description=scenario.description) + yaml.safe_dump(data, sort_keys=False)
