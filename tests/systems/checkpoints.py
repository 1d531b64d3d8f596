"""The systems that are served side by side in these tests: recipe, and what makes its random checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from periscope_testing.colpali.checkpoint import ColPaliSizes, make_colpali
from periscope_testing.jina_clip.checkpoint import make_jina_clip
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_embedding, make_qwen3_vl_reranker

# As unlike the embedding's as the layout allows: bf16, a language head of its own, the head width of the 8B's vision
# tower, other widths, depths and levels.
_OTHER_QWEN3_VL = Qwen3VLSizes(
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

# By the name that the retriever is served under: its recipe, and a function that writes a checkpoint into a folder.
SYSTEMS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    # The published size of a page: 1024 visual tokens.
    "colpali": ("colpali", partial(make_colpali, sizes=ColPaliSizes(side=448, layers=3), seed=1)),
    # A merged one says nothing of images but in config.json.
    "colpali_merged": (
        "colpali",
        partial(
            make_colpali,
            sizes=ColPaliSizes(heads=3, width=200, dtype=torch.bfloat16),
            seed=2,
            adapter=False,
            image_processor=False,
        ),
    ),
    "colpali_hf": (
        "colpali",
        partial(make_colpali, sizes=ColPaliSizes(vision_heads=1), seed=3, layout="transformers", adapter=False),
    ),
    "jina_clip_v1": ("jina_clip_v1", make_jina_clip),
    "qwen3_embedding": ("qwen3_vl_embedding", partial(make_qwen3_vl_embedding, seed=11)),
    "qwen3_reranker": ("qwen3_vl_reranker", partial(make_qwen3_vl_reranker, sizes=_OTHER_QWEN3_VL, seed=12)),
}
