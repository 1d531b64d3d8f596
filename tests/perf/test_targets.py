"""The targets are what was agreed on, and a figure that is missing never passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from periscope_perf import groups
from periscope_perf.beside import SYSTEMS
from periscope_perf.findings import Findings, with_best
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
    peaks = {candidate.precision for candidate in plan.candidates} | {"best"}
    for target in plan.targets:
        for figure in filter(None, (target.over, target.under)):
            kind, _, rest = figure.partition("/")
            assert kind in _UNITS
            system_name, _, contender = rest.partition("/")
            if system_name in plan.systems:
                others = peaks if kind == "peak" else set(plan.systems[system_name].peers)
                assert contender in known | others


def test_both_sides_of_a_ratio_are_in_one_group() -> None:
    """Whichever candidate is best, and with each of the plan's systems."""
    plan = load_plan()
    names = [candidate.name for candidate in plan.candidates]
    for best in names:
        for target in plan.targets:
            sides = [side.split("/") for side in (target.over, target.under) if side]
            if len(sides) < 2 or sides[0][0] == "prepare" or sides[1][0] == "peak":
                continue  # preparation has turns of its own, and the peak is in every group
            assert sides[0][1] == sides[1][1]
            wanted = {side[2].replace("best", best) for side in sides}
            found = groups.beside_peers(best, names, plan.systems[sides[0][1]].peers)
            assert any(wanted <= set(group) for group in found), (best, target.name)


def test_groups() -> None:
    peers = ("transformers-fp32", "vllm-bf16")
    assert groups.beside_peers("openvino-int8", ["fp32", "openvino-int8"], peers) == [
        ["served-fp32", "transformers-fp32"],
        ["served-openvino-int8", "bare-openvino-int8", "vllm-bf16"],
    ]
    assert groups.beside_peers("fp32", ["fp32", "openvino-int8"], peers) == [["served-fp32", "bare-fp32", *peers]]
    assert groups.beside_peers("", [], peers) == [["transformers-fp32"], ["vllm-bf16"]]
    alone = groups.one_by_one(["fp32"], peers)
    assert alone == [["served-fp32"], ["bare-fp32"], ["transformers-fp32"], ["vllm-bf16"]]


def test_who_is_measured_again_has_no_figures_of_before() -> None:
    figures = {"pages/a/served-fp32": [1.0], "pages/b/served-fp32": [2.0], "peak/a/fp32": [3.0], "weights/a/x": [4.0]}
    findings = Findings(dict(figures))
    findings.forget("a", ["served-fp32", "bare-fp32"])
    assert findings.figures == {name: values for name, values in figures.items() if name != "pages/a/served-fp32"}


def test_no_target_is_written_twice_or_without_direction(tmp_path: Path) -> None:
    for broken in (
        {"name": "a", "over": "x/y"},
        {"name": "a", "over": "x/y", "at_least": 1, "at_most": 2},
    ):
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
    line = judge(Target(name="seconds", over="start/demo/x", at_most=5), {"start/demo/x": [value]}).line()
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
        "peak/s/int8": [9.0],
        "start/demo/served-int8": [4.0],
        "pages/s/bare-int8": [3.0],
    }
    named = with_best(figures, "int8")
    assert named.items() >= figures.items()
    best = {name: values for name, values in named.items() if name.endswith("best")}
    assert best == {
        "pages/s/served-best": [2.0],
        "pages/s/bare-best": [3.0],
        "peak/s/best": [9.0],
        "start/demo/served-best": [4.0],
    }
    assert with_best(figures, "openvino-int8").keys() == figures.keys() | {"peak/s/best"}
    assert with_best(figures, "") == figures
