"""A peer's side of the lines: what a script of a few lines answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from periscope_perf.peers import answering
from periscope_perf.peers.host import Peer, PeerError

SCRIPT = """
from answering import serve

class Peer:
    def load(self, request):
        print("chatter of a library")
        return {"versions": {"toy": request["precision"]}}

    def pages(self, request):
        return [[[1.0, 2.0], [3.0, 4.0]] for _ in request["files"]]

    def queries(self, request):
        return {"seconds": 7.0, "vectors": [[1.0, 2.0] for _ in request["texts"]]}

    def prepare(self, request):
        raise ValueError(f"no {request['threads']} threads")

serve(Peer())
"""


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    script = tmp_path / "peer.py"
    script.write_text(SCRIPT, encoding="utf-8")
    # As the scripts beside it: the folder is where Python looks first.
    (tmp_path / "answering.py").symlink_to(Path(answering.__file__))
    with Peer("toy", sys.executable, script, timeout=30.0) as running:
        yield running


def test_answers(peer: Peer, tmp_path: Path) -> None:
    assert 0 <= peer.load(tmp_path, "fp32", 2) < 1
    assert peer.versions == {"toy": "fp32"}
    assert [page.tolist() for page in peer.pages([tmp_path]).vectors] == [[[1.0, 2.0], [3.0, 4.0]]]
    # Seconds that an operation counts itself; a vector alone is a row.
    answered = peer.queries(["a", "b"])
    assert answered.seconds == 7.0
    assert [vectors.shape for vectors in answered.vectors] == [(1, 2), (1, 2)]
    assert answered.vectors[0].dtype == np.float32
    peer.close()
    assert "chatter of a library" in peer.log()


def test_what_fails_is_answered_and_the_next_request_too(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="prepare failed: ValueError: no 3 threads"):
        peer.prepare(tmp_path, [], 3)
    assert len(peer.queries(["a"]).vectors) == 1
