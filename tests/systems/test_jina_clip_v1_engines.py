"""Both towers of jina-clip-v1 become TensorRT-RTX engines, without a GPU, with every attention layer fused.

ALiBi reaches the fused kernel as a bias of the scores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from periscope_export.exporter import Request, export
from periscope_testing.jina_clip.checkpoint import JinaClipSizes, make_jina_clip

SIZES = JinaClipSizes(vision_layers=2, layers=3)
ATTENTION = {"vision_encoder": 2, "text_encoder": 3, "dense_head": 0}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_graph_compiles(precision: Literal["fp16", "bf16"], tmp_path: Path) -> None:
    checkpoint = make_jina_clip(tmp_path / "checkpoint", SIZES)
    request = Request(
        str(checkpoint), "jina_clip_v1", tmp_path / "repository", "r", engine="tensorrt-rtx", precision=precision
    )
    repository = export(request)
    for step, layers in ATTENTION.items():
        version = repository / f"r_{step}" / "1"
        assert (version / "model.plan").stat().st_size > 10_000
        assert json.loads((version / "engine.json").read_text())["attention_layers"] == layers
