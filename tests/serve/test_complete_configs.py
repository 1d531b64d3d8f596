"""Complete configs: Triton is told not to start a process for each model to ask what it lacks."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from periscope_serve.server import Server
from serve import toys

FLAG = "--disable-auto-complete-config"


@pytest.mark.parametrize(("config", "told"), [(toys.DOUBLE, True), (None, False)])
def test_completion_is_asked_for_where_it_is_needed(tmp_path: Path, config: str | None, told: bool) -> None:
    repository = tmp_path / "repository"
    toys.write(repository, "toy", toys.double(["B", "N"]), config)
    with Server([repository], grpc_port=0, http_port=0, metrics_port=0, log=tmp_path / "log") as running:
        words = [
            word
            for process in (
                psutil.Process(running.pid),
                *psutil.Process(running.pid).children(recursive=True),
            )
            for word in process.cmdline()
        ]
        assert (FLAG in words) is told
        assert running.models == ["toy"]
