"""ColQwen2 on Qwen2-VL."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from periscope_testing.colqwen2.checkpoint import make_colqwen2, make_colqwen2_dense, make_published_colqwen2
from periscope_testing.colqwen2.reference import ColQwen2DenseReference, ColQwen2Reference
from periscope_testing.qwen2_vl import Qwen2VLSizes
from periscope_testing.reference import Item
from periscope_testing.system import Shape, System, with_other

_SHALLOW = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64)
# As unlike the first as the layout allows: other depths and head counts, bf16, DoRA, the layout of transformers 5, and
# a dense output of its own width, by a dense layer of sentence-transformers.
_OTHER = Qwen2VLSizes(
    vision_layers=3,
    vision_heads=3,
    language_layers=1,
    heads=4,
    kv_heads=2,
    mlp=200,
    rank=3,
    max_pixels=200704,
    dtype=torch.bfloat16,
)


def _shaped(folder: Path, shape: Shape) -> Path:
    sizes = Qwen2VLSizes(vision_layers=shape.depth, language_layers=shape.depth, deviation=shape.deviation)
    return make_colqwen2(folder, sizes, seed=shape.seed)


SYSTEMS = (
    System(
        "colqwen2",
        "colqwen2",
        "qwen2_vl",
        partial(make_colqwen2, seed=1),
        ColQwen2Reference,
        shaped=_shaped,
        published=("ColQwen2 (Qwen2-VL-2B)", make_published_colqwen2),
        mistakes={"another prefix": (Item("revenue"), with_other(query_prefix="Question: "))},
    ),
    System(
        "second",
        "colqwen2_dense",
        "qwen2_vl",
        partial(make_colqwen2_dense, sizes=_OTHER, seed=2, layout="engine-new", adapter="dora"),
        ColQwen2DenseReference,
        shallow=partial(make_colqwen2_dense, sizes=_SHALLOW),
        attention={"vision_encoder": 1, "language_model": 1},
    ),
)
