"""OpenVINO finds every rotation in the graphs: one operator each, whose angles stay in float32.

It knows them by how they are written. One that it does not know is computed piece by piece, its angles in bfloat16:
far positions then turn to nowhere near.
"""

from __future__ import annotations

from collections import Counter

from export.conftest import TracedQwen3VL
from periscope_export.graphs.openvino import core


def test_every_rotation_is_one_operator(traced: TracedQwen3VL) -> None:
    for one, layers in ((traced.vision, traced.vision.module.blocks), (traced.language, traced.language.module.layers)):
        compiled = core().compile_model(one.graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        kinds = Counter(node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops())
        assert kinds["RoPE"] == 2 * len(layers)
        # Rows are copied, not their elements one by one.
        assert kinds["GatherElements"] == 0
