"""OpenVINO finds every rotation in the graphs: one operator each, whose angles stay in float32.

It knows them by how they are written. One that it does not know is computed piece by piece, its angles in bfloat16:
far positions then turn to nowhere near.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from e2e.pages import draw_page
from export.qwen3_vl_rows import Tensors, build, joined, prepared, published
from periscope_export.graphs.graph import export_graph
from periscope_export.graphs.openvino import core
from periscope_export.graphs.precision import at


def test_every_rotation_is_one_operator(tmp_path: Path) -> None:
    built = build(tmp_path / "checkpoint")
    items = [{"image": draw_page(90, 120, seed), "text": "revenue"} for seed in range(2)]
    tensors: Tensors = joined([prepared(built.reference, published(built.reference, item)) for item in items])
    tensors["visual_tokens"] = built.run(tensors)["visual_tokens"]
    for step, module, layers in (
        (built.vision_step, built.vision, built.vision.blocks),
        (built.language_step, built.language, built.language.layers),
    ):
        step = at(step, "fp32")
        example = {spec.name: tensors[spec.name].astype(spec.dtype) for spec in step.inputs}
        graph = export_graph(step, module, example, tmp_path / step.name)
        compiled = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        kinds = Counter(node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops())
        assert kinds["RoPE"] == 2 * len(layers)
        # Rows are copied, not their elements one by one.
        assert kinds["GatherElements"] == 0
