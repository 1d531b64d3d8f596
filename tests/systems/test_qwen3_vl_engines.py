"""Every graph of Qwen3-VL-Embedding and -Reranker becomes a TensorRT-RTX engine, without a GPU.

With every attention layer fused; heads are as wide as the published ones. Profiles of texts have no visual token.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from periscope_export.exporter import Request, export
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_embedding, make_qwen3_vl_reranker

SIZES = Qwen3VLSizes(vision_layers=3, levels=(0, 1), layers=2)
# The maker of a checkpoint, the width of its vision heads, the head, the profiles of the language model.
SYSTEMS = {
    "qwen3_vl_embedding": (make_qwen3_vl_embedding, 64, "dense_head", 4),
    "qwen3_vl_reranker": (make_qwen3_vl_reranker, 72, "rerank_head", 1),
}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("recipe", SYSTEMS)
def test_every_graph_compiles(recipe: str, precision: Literal["fp16", "bf16"], tmp_path: Path) -> None:
    make, width, head, profiles = SYSTEMS[recipe]
    checkpoint = make(tmp_path / "checkpoint", replace(SIZES, vision_head_width=width))
    request = Request(str(checkpoint), recipe, tmp_path / "made", "r", engine="tensorrt-rtx", precision=precision)
    repository = export(request)
    for step, layers in {"vision_encoder": 3, "language_model": 2, head: 0}.items():
        version = repository / f"r_{step}" / "1"
        assert (version / "model.plan").stat().st_size > 10_000
        assert json.loads((version / "engine.json").read_text())["attention_layers"] == layers
    language = json.loads((repository / "r_language_model" / "1" / "engine.json").read_text())
    assert len(language["profiles"]) == profiles
