"""A fixture for folders that export graphs: what torch's exporter does anew for each graph is done once a process."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """It parses the source of its five hundred operators for each graph, for half a second; they stay the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield
