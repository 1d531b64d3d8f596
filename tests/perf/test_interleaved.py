"""Sides that take turns: in which order, and what remains of them when the machine is disturbed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from periscope_perf.interleaved import Rounds, SideError, interleave
from periscope_perf.peers.host import Peer

TOY = Path(__file__).parent / "toy_peer.py"


def nothing(line: str) -> None:
    pass


def test_all_warm_up_and_each_round_begins_with_another() -> None:
    called: list[str] = []

    def side(name: str) -> float:
        called.append(name)
        return float(len(called))

    found = interleave({name: lambda name=name: side(name) for name in "abc"}, 4, nothing)  # type: ignore[misc]
    assert "".join(called) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert found.figures["a"] == [4.0, 9.0, 11.0, 13.0]  # not the first, which warmed up
    assert not found.failures


def test_one_that_fails_is_left_out_and_the_others_go_on() -> None:
    calls = {"good": 0, "late": 0}

    def good() -> float:
        calls["good"] += 1
        return 1.0

    def at_once() -> float:
        raise SideError("no such kernel")

    def late() -> float:
        calls["late"] += 1
        if calls["late"] == 3:
            raise SideError("out of memory")
        return 2.0

    found = interleave({"at once": at_once, "late": late, "good": good}, 4, nothing)
    assert found.figures == {"good": [1.0] * 4}
    assert found.failures == {"at once": "no such kernel", "late": "out of memory"}
    assert calls == {"good": 5, "late": 3}


def test_no_side_that_works() -> None:
    def broken() -> float:
        raise SideError("broken")

    assert interleave({"a": broken}, 3, nothing) == Rounds({}, {"a": "broken"})


def test_a_twin_of_half_the_speed_is_found_to_be_so(tmp_path: Path) -> None:
    def toy(seconds: float) -> Peer:
        return Peer("toy", sys.executable, TOY, timeout=30, variables={"TOY_SECONDS": str(seconds)})

    with toy(0.02) as quick, toy(0.04) as slow:
        sides = {
            name: lambda peer=peer: 3 / peer.queries(["a", "b", "c"]).seconds
            for name, peer in {"quick": quick, "slow": slow}.items()
        }
        found = interleave(sides, 3, nothing)
    assert found.ratios("quick", "slow") == pytest.approx([2.0] * 3)
    assert found.median("slow") == pytest.approx(25.0)


def test_what_disturbs_a_round_disturbs_both_and_not_their_ratio() -> None:
    load = iter([1.0] * 2 + [1.0] * 2 + [5.0] * 2 + [1.0] * 2)
    found = interleave({"a": lambda: 1.0 * next(load), "b": lambda: 2.0 * next(load)}, 3, nothing)
    assert found.ratios("a", "b") == [0.5] * 3
    assert found.median("a") == 1.0
