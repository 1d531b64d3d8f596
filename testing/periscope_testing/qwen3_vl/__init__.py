"""Qwen3-VL-Embedding and Qwen3-VL-Reranker."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_embedding, make_qwen3_vl_reranker
from periscope_testing.qwen3_vl.reference import EmbeddingReference, RerankerReference
from periscope_testing.system import System

_SHALLOW = Qwen3VLSizes(vision_layers=2, levels=(0,), layers=2)
_ATTENTION = {"vision_encoder": 2, "language_model": 2}
# As unlike the embedding's as the layout allows: bf16, a language head of its own, the head width of the 8B's vision
# tower, other widths, depths and levels.
_OTHER = Qwen3VLSizes(
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

SYSTEMS = (
    System(
        "qwen3_embedding",
        "qwen3_vl_embedding",
        "qwen3_vl",
        partial(make_qwen3_vl_embedding, seed=11),
        EmbeddingReference,
        shallow=partial(make_qwen3_vl_embedding, sizes=_SHALLOW),
        attention=_ATTENTION,
    ),
    System(
        "qwen3_reranker",
        "qwen3_vl_reranker",
        "qwen3_vl",
        partial(make_qwen3_vl_reranker, sizes=_OTHER, seed=12),
        RerankerReference,
        shallow=partial(make_qwen3_vl_reranker, sizes=replace(_SHALLOW, vision_head_width=72)),
        attention=_ATTENTION,
    ),
)
