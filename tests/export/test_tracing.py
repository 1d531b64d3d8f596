"""Tracing skips work that is the same for every graph, and leaves torch as it was."""

from __future__ import annotations

import torch._dynamo.config
from torch.onnx._internal.exporter._registration import ONNXRegistry

from periscope_export.graphs.tracing import quicker


def test_operators_are_read_once_and_only_within() -> None:
    own = ONNXRegistry.__dict__["from_torchlib"]
    with quicker():
        first = ONNXRegistry.from_torchlib(opset_version=18)
    with quicker():
        assert ONNXRegistry.from_torchlib(opset_version=18) is first
        assert not torch._dynamo.config.fake_tensor_cache_enabled
    assert ONNXRegistry.__dict__["from_torchlib"] is own
    assert torch._dynamo.config.fake_tensor_cache_enabled
