"""The server that these tests share."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from periscope_client import Retriever

from .conftest import Standin


def test_a_dead_server_is_replaced(tmp_path: Path) -> None:
    standin = Standin(tmp_path, only="flat")
    try:
        first = standin.server()
        assert standin.server() is first
        os.kill(first.pid, signal.SIGKILL)
        while (second := standin.server()) is first:
            time.sleep(0.01)
        with Retriever(second.grpc_url, "flat") as retriever:
            assert len(retriever.embed_text(["a"])) == 1
    finally:
        os.kill(standin.server().pid, signal.SIGKILL)  # faster than an orderly end
        standin.stop()
    assert "Triton was killed by signal 9" in standin.deaths[0]
