"""Our side of a peer, against one that dies, hangs and talks nonsense."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from periscope_perf.peers.catalogue import PEERS
from periscope_perf.peers.host import Peer, PeerError

TOY = Path(__file__).parent / "toy_peer.py"
FILES = [Path("a.png"), Path("b.png")]

Start = Callable[..., Peer]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as running:

        def begin(fault: str = "", timeout: float = 30.0) -> Peer:
            peer = Peer("toy", sys.executable, TOY, timeout=timeout, variables={"TOY_PEER": fault})
            return running.enter_context(peer)

        yield begin


def test_load_embed_and_end(start: Start, tmp_path: Path) -> None:
    peer = start()
    assert peer.load(tmp_path, "fp32", 2) == 0.5
    assert peer.versions == {"toy": "1.0", "checkpoint": str(tmp_path)}
    answered = peer.pages(FILES)
    assert answered.seconds == pytest.approx(0.02)
    assert [vectors.shape for vectors in answered.vectors] == [(2, 4), (3, 4)]
    assert all(vectors.dtype == np.float32 for vectors in answered.vectors)
    # Twelve, so that no order of names can stand for the order of items.
    lengths = [len(vectors) for vectors in peer.queries([str(number) for number in range(12)]).vectors]
    assert lengths == list(range(2, 14))
    peer.close()
    assert _gone(peer.pid)
    peer.close()


def test_a_peer_that_dies_says_how(start: Start) -> None:
    with pytest.raises(PeerError, match=r"(?s)toy: ended with status 3 .*'pages'.*out of toys"):
        start("dies").pages(FILES)


def test_a_dead_peer_stays_dead(start: Start) -> None:
    peer = start("dies")
    for _ in range(2):
        with pytest.raises(PeerError, match="ended with status 3"):
            peer.pages(FILES)


def test_a_peer_that_hangs_is_ended_with_its_children(start: Start) -> None:
    peer = start("hangs", timeout=2.0)
    begun = time.monotonic()
    with pytest.raises(PeerError, match=r"(?s)no answer to 'pages' within 2 seconds.*toy peer: pages"):
        peer.pages(FILES)
    assert time.monotonic() - begun < 20
    child = re.search(r"child (\d+)", peer.log())
    assert child is not None
    assert _gone(int(child[1]))
    assert _gone(peer.pid)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("garbage", "answered 'queries' with 'Loading weights: 100%'"),
        ("number", "answered 'queries' with '12'"),
        ("raises", "queries failed: ValueError: no such page"),
        ("no vectors", "its vectors cannot be read"),
        ("loses one", "it made 1 vectors of 2 items"),
    ],
)
def test_nonsense_is_an_error_that_names_the_peer(start: Start, fault: str, message: str) -> None:
    with pytest.raises(PeerError, match=f"toy: {re.escape(message)}"):
        start(fault).queries(["one", "two"])


def test_an_environment_that_was_not_made() -> None:
    with pytest.raises(PeerError, match=r"vllm: cannot be started: .*make peers"):
        Peer("vllm", "no/such/python", TOY)


def test_every_peer_has_its_files() -> None:
    for peer in PEERS.values():
        assert peer.path.is_file()
        pins = peer.path.with_name(f"{peer.environment}.txt").read_text(encoding="utf-8").splitlines()
        wanted = [line for line in pins if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in wanted)
        assert "torch==2.13.0" in wanted


def _gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    os.kill(pid, 0)
    return False
