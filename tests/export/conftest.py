"""A checkpoint that several files export, and its repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from periscope_client.console import main
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes

TINY = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64)
LIMIT, PIXELS = "preparation.limits.image_pixels", 134217728


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colqwen2(tmp_path_factory.mktemp("made") / "checkpoint", TINY)


@pytest.fixture(scope="session")
def repository(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "repository"
    arguments = ["--recipe", "colqwen2_dense", "--output", str(output), "--name", "mine", "--set", f"{LIMIT}={PIXELS}"]
    assert main(["export", str(checkpoint), *arguments]) == 0
    return output
