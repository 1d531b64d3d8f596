"""Qwen3-VL-Embedding and Qwen3-VL-Reranker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from periscope_testing.qwen3_vl.checkpoint import (
    QWEN3_VL_2B,
    Qwen3VLSizes,
    make_qwen3_vl_embedding,
    make_qwen3_vl_reranker,
)
from periscope_testing.qwen3_vl.reference import EmbeddingReference, RerankerReference
from periscope_testing.system import Shape, System

_SHALLOW = Qwen3VLSizes(vision_layers=2, levels=(0,), layers=2)
_ATTENTION = {"vision_encoder": 2, "language_model": 2}
# As unlike the embedding's as the layout allows: bf16, a language head of its own, the head width of the 8B's vision
# tower, other widths, depths and levels.
OTHER = Qwen3VLSizes(
    vision_layers=4,
    vision_heads=3,
    vision_head_width=72,
    levels=(0, 2),
    layers=3,
    width=320,
    kv_heads=2,
    tied=False,
    dtype=torch.bfloat16,
    shards=1,
)


def make_shaped(make: Callable[..., Path], folder: Path, shape: Shape) -> Path:
    """Write a checkpoint of a shape by a maker of systems on Qwen3-VL, and return its folder."""
    # Three levels are read between layers.
    depth = max(shape.depth, 3)
    sizes = Qwen3VLSizes(vision_layers=depth, levels=(0, 1, 2), layers=depth, deviation=shape.deviation)
    return make(folder, sizes, seed=shape.seed)


SYSTEMS = (
    System(
        "qwen3_embedding",
        "qwen3_vl_embedding",
        "qwen3_vl",
        partial(make_qwen3_vl_embedding, seed=11),
        EmbeddingReference,
        shaped=partial(make_shaped, make_qwen3_vl_embedding),
        published=("Qwen3-VL-Embedding-2B", partial(make_qwen3_vl_embedding, sizes=QWEN3_VL_2B)),
        shallow=partial(make_qwen3_vl_embedding, sizes=_SHALLOW),
        attention=_ATTENTION,
        excluded={"test_transparent_grey_pages": "qwen-vl-utils drops the transparency of grey pages"},
    ),
    System(
        "qwen3_reranker",
        "qwen3_vl_reranker",
        "qwen3_vl",
        partial(make_qwen3_vl_reranker, sizes=OTHER, seed=12),
        RerankerReference,
        shaped=partial(make_shaped, make_qwen3_vl_reranker),
        shallow=partial(make_qwen3_vl_reranker, sizes=replace(_SHALLOW, vision_head_width=72)),
        attention=_ATTENTION,
    ),
)
