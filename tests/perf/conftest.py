"""perf_analyzer itself, and repositories to drive it against."""

from __future__ import annotations

import pytest

from e2e.exported import Exported, exported
from periscope_perf import perf_analyzer
from periscope_perf.errors import MissingToolError
from periscope_perf.perf_analyzer import PerfAnalyzer
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes


@pytest.fixture(scope="session")
def analyzer() -> PerfAnalyzer:
    """NVIDIA's binary. `.ci/run` installs it, so that nothing is skipped there."""
    try:
        return perf_analyzer.find()
    except MissingToolError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A whole retriever, as small as its kind can be."""
    folder = tmp_path_factory.mktemp("small")
    sizes = Qwen2VLSizes(vision_layers=1, language_layers=1)
    return exported(folder, "small", make_colqwen2(folder / "checkpoint", sizes, seed=5), recipe="colqwen2_dense")
