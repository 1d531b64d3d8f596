"""Pauses and limits."""

from __future__ import annotations

import asyncio

import pytest

from periscope_client import (
    ServerUnavailable,
)
from periscope_client._timeout import Timeout, call_with_retries


def test_pauses_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def call() -> None:
        raise ServerUnavailable("busy", "preprocess")

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(ServerUnavailable, match=r"^preprocess: busy \(9 attempts in"):
        asyncio.run(call_with_retries(call, seconds=1000, retries=8))
    assert len(pauses) == 8
    for pause, longest in zip(pauses, [0.25, 0.5, 1, 2, 4, 8, 8, 8], strict=True):
        assert longest / 2 <= pause <= longest
    pauses.clear()
    with pytest.raises(ServerUnavailable, match="attempts"):
        asyncio.run(call_with_retries(call, seconds=0.2, retries=8))
    assert len(pauses) < 2, "no pause beyond the time limit"


def test_timeouts() -> None:
    assert Timeout.of(3) == Timeout(3.0, 3.0)
    assert Timeout.of(Timeout(request=5)) == Timeout(30.0, 5)
    with pytest.raises(ValueError, match="positive"):
        Timeout(connect=-1)
