"""ColPali on PaliGemma."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from periscope_testing.colpali.checkpoint import ColPaliSizes, make_colpali
from periscope_testing.colpali.reference import ColPaliReference
from periscope_testing.reference import Item
from periscope_testing.system import Shape, System, with_other

# The published size of a page: 1024 visual tokens.
_PUBLISHED_SIDE = ColPaliSizes(side=448, layers=3)
_OTHER = ColPaliSizes(heads=3, width=200, dtype=torch.bfloat16)


def _shaped(folder: Path, shape: Shape) -> Path:
    sizes = ColPaliSizes(vision_layers=shape.depth, layers=shape.depth, deviation=shape.deviation)
    return make_colpali(folder, sizes, seed=shape.seed)


SYSTEMS = (
    System(
        "colpali",
        "colpali",
        "paligemma",
        partial(make_colpali, sizes=_PUBLISHED_SIDE, seed=1),
        ColPaliReference,
        shaped=_shaped,
        shallow=partial(make_colpali, sizes=ColPaliSizes(side=448, vision_layers=1, layers=1, heads=8)),
        attention={"vision_encoder": 1, "language_model": 1},
    ),
    # A merged one says nothing of images but in config.json.
    System(
        "colpali_merged",
        "colpali",
        "paligemma",
        partial(make_colpali, sizes=_OTHER, seed=2, adapter=False, image_processor=False),
        partial(ColPaliReference, side=56),
    ),
    System(
        "colpali_hf",
        "colpali",
        "paligemma",
        partial(make_colpali, sizes=ColPaliSizes(vision_heads=1), seed=3, layout="transformers", adapter=False),
        ColPaliReference,
        mistakes={
            "the prefix of colpali-engine 0.3.4 to 0.3.10": (Item("revenue"), with_other(query_prefix="Query: ")),
            "no prefix, as colpali-engine since": (Item("revenue"), with_other(query_prefix="")),
        },
    ),
)
