"""The scenario files: all valid, and frozen, since figures of different scenarios must not be compared by mistake."""

from __future__ import annotations

import pytest
import yaml

from periscope_perf import scenario
from periscope_perf.errors import ScenarioError

# Name -> where its requests go, the levels of its default sweep, and what it runs beside.
FROZEN = {
    "single_query": ("embed_text", (1,), (), None),
    "query_throughput": ("embed_text", (1, 2, 4, 8, 16), (0.5, 0.8), None),
    "page_throughput": ("embed_image", (1, 2, 4, 8), (), None),
    "mixed": ("embed_text", (1,), (), ("embed_image", 4)),
    "rerank_top_20": ("rerank", (1, 2), (), None),
}

VALID = {
    "name": "mine",
    "description": "Mine",
    "load": {"ensemble": "embed_text", "queries": 4},
    "percentile": 95,
    "trials": 10,
    **{size: {"concurrency": [1], "window": 5, "stability": 10} for size in ("default", "quick", "deployment")},
}


def test_names() -> None:
    assert scenario.names() == list(FROZEN)


@pytest.mark.parametrize("name", FROZEN)
def test_a_scenario(name: str) -> None:
    found = scenario.load(name)
    background = found.background and (found.background.load.ensemble, found.background.concurrency)
    assert (found.load.ensemble, found.default.concurrency, found.default.request_rates, background) == FROZEN[name]
    assert found.description
    assert found.quick.window <= found.default.window <= found.deployment.window


def test_a_scenario_that_there_is_not() -> None:
    with pytest.raises(ScenarioError, match=r"scenario 'other': there is none .* single_query, query_throughput"):
        scenario.load("other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 3}, "window: Extra inputs are not permitted"),
        ({"percentile": 80}, "percentile: Input should be 50, 90, 95 or 99"),
        ({"name": "yours"}, "the file calls it 'yours'"),
        ({"load": {"ensemble": "embed_image", "queries": 4}}, "embed_image is given .'queries'., and takes .'pages'."),
        ({"quick": {"concurrency": [2, 1], "window": 1, "stability": 10}}, "quick: .*levels are above 0, and rise"),
        ({"quick": {"concurrency": [], "window": 1, "stability": 10}}, "quick.concurrency: .*at least 1 item"),
        (
            {"quick": {"concurrency": [1], "request_rates": [1.5], "window": 1, "stability": 10}},
            "quick: .*below 1",
        ),
    ],
)
def test_a_wrong_scenario_is_refused_by_its_field(change: dict[str, object], message: str) -> None:
    assert scenario.parse("mine", yaml.safe_dump(VALID)).name == "mine"
    with pytest.raises(ScenarioError, match=message):
        scenario.parse("mine", yaml.safe_dump(VALID | change))


def test_a_file_that_is_no_yaml() -> None:
    with pytest.raises(ScenarioError, match="scenario 'mine': is no YAML"):
        scenario.parse("mine", "name: [")
