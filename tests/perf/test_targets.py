"""The targets are what was agreed on, and a figure that is missing never passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from periscope_perf.beside import SYSTEMS, with_best
from periscope_perf.peers.catalogue import PEERS
from periscope_perf.record import _UNITS
from periscope_perf.targets import PLAN, Target, judge, load_plan

AGREED = {
    "pages-fp32-against-transformers-fp32": ">=2.5",
    "pages-best-against-transformers-bf16": ">=1.8",
    "pages-best-against-vllm-bf16": ">=4",
    "query-p50-against-vllm": "<=0.5",
    "pages-server-against-bare-loop": ">=0.92",
    "preparation-one-thread": ">=2",
    "preparation-two-threads": ">=3.5",
    "page-flops-against-peak": ">=0.65",
    "query-p50-while-indexing": "<=3",
    "seconds-to-ready": "<=5",
    "memory-against-weights": "<=1.5",
}


def test_the_targets_are_those_that_were_agreed_on() -> None:
    plan = load_plan()
    assert {target.name: target.wanted for target in plan.targets} == AGREED
    assert plan.quality.within == 0.005


def test_every_peer_and_every_figure_of_the_plan_can_be() -> None:
    plan = load_plan()
    assert set(plan.systems) <= set(SYSTEMS)
    for name, system in plan.systems.items():
        assert plan.reference in system.peers
        assert all(name in PEERS[peer].systems for peer in system.peers)
    known = {f"served-{candidate.name}" for candidate in plan.candidates} | {"served-best", "bare-best"}
    for target in plan.targets:
        for figure in filter(None, (target.over, target.under)):
            kind, _, rest = figure.partition("/")
            assert kind in _UNITS
            system_name, _, contender = rest.partition("/")
            if system_name in plan.systems:
                assert contender in known | set(plan.systems[system_name].peers)


def test_no_target_is_written_twice_or_without_direction(tmp_path: Path) -> None:
    for broken in ({"name": "a", "over": "start/demo"}, {"name": "a", "over": "x/y", "at_least": 1, "at_most": 2}):
        with pytest.raises(ValidationError, match="at_least or at_most"):
            Target.model_validate(broken)
    text = yaml.safe_load(PLAN.read_text(encoding="utf-8")) | {"round": 3}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(text), encoding="utf-8")
    with pytest.raises(ValidationError, match="round"):
        load_plan(tmp_path / "plan.yaml")


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    target = Target(name="t", over="a", under="b", at_least=2)
    verdict = judge(target, {"a": [2.0, 30.0, 4.0], "b": [1.0, 10.0, 2.0]})
    assert verdict.rounds == (2.0, 3.0, 2.0)
    assert verdict.line() == "t 2 >=2 pass"
    # One figure against one a round: the ratio of the medians.
    assert judge(target, {"a": [6.0], "b": [1.0, 2.0, 9.0]}).value == 3.0


@pytest.mark.parametrize(("value", "word"), [(4.9, "pass"), (5.0, "pass"), (5.1, "fail"), (float("nan"), "fail")])
def test_at_most(value: float, word: str) -> None:
    line = judge(Target(name="seconds", over="start/demo", at_most=5), {"start/demo": [value]}).line()
    assert line == f"seconds {value:.3g} <=5 {word}"


@pytest.mark.parametrize("figures", [{}, {"a": [1.0]}, {"a": [1.0], "b": []}])
def test_what_is_missing_fails_and_is_named(figures: dict[str, list[float]]) -> None:
    verdict = judge(Target(name="t", over="a", under="b", at_least=0), figures)
    assert verdict.line() == "t missing >=0 fail"
    assert verdict.missing == ("b" if figures else "a")


def test_the_best_candidate_goes_by_that_name_too() -> None:
    figures = {
        "pages/s/served-int8": [2.0],
        "pages/s/served-fp32": [1.0],
        "peak/int8": [9.0],
        "pages/s/bare-int8": [3.0],
    }
    named = with_best(figures, "int8")
    assert named.items() >= figures.items()
    assert [named[name] for name in ("pages/s/served-best", "pages/s/bare-best", "peak/best")] == [[2.0], [3.0], [9.0]]
    assert with_best(figures, "openvino-int8").keys() == figures.keys() | {"peak/best"}
    assert with_best(figures, "") == figures
