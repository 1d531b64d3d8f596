"""Pauses and limits."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from periscope_client import ServerUnavailable, _timeout
from periscope_client._timeout import Patience, Timeout, call_with_retries


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def call() -> None:
        raise ServerUnavailable("busy", "preprocess")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(ServerUnavailable, match=r"^preprocess: busy \(9 attempts in"):
        asyncio.run(call_with_retries(call, seconds=1000, patience=Patience(1000, retries=8)))
    assert len(pauses) == 8
    for pause, longest in zip(pauses, [0.25, 0.5, 1, 2, 4, 8, 8, 8], strict=True):
        assert longest / 2 <= pause <= longest


def test_patience_is_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default lasts longer than a planned restart, its last attempt is made when the time is up, and no later."""
    clock = [0.0]
    made: list[float] = []

    async def sleep(seconds: float) -> None:
        clock[0] += seconds

    async def call() -> None:
        made.append(clock[0])
        raise ServerUnavailable("gone")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for seconds in (30.0, 120.0):
        clock[0] = 0.0
        made.clear()
        with pytest.raises(ServerUnavailable, match=rf"gone \(\d+ attempts in {seconds:.1f} s\)"):
            asyncio.run(call_with_retries(call, seconds=300, patience=Patience(seconds, longest=2.0)))
        assert made[0] == 0
        assert made[-1] == pytest.approx(seconds)
        assert max(later - earlier for earlier, later in itertools.pairwise(made)) <= 2
    made.clear()
    with pytest.raises(ServerUnavailable, match=r"gone \(1 attempt in 0\.0 s\)"):
        asyncio.run(call_with_retries(call, seconds=300, patience=Patience(0)))
    assert len(made) == 1


def test_only_attempts_count_against_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may be away for longer than a request may take."""
    outcomes = [ServerUnavailable("gone"), ServerUnavailable("gone"), None]

    async def call() -> str:
        if (error := outcomes.pop(0)) is not None:
            raise error
        return "done"

    async def away() -> None:
        await asyncio.sleep(0.15)

    monkeypatch.setattr(_timeout, "FIRST_DELAY", 0.01)
    retried = call_with_retries(call, seconds=0.1, patience=Patience(5), before_retry=away)
    assert asyncio.run(retried) == "done"


def test_timeouts() -> None:
    assert Timeout.of(3) == Timeout(3.0, 3.0)
    assert Timeout.of(Timeout(request=5)) == Timeout(30.0, 5)
    with pytest.raises(ValueError, match="positive"):
        Timeout(connect=-1)
