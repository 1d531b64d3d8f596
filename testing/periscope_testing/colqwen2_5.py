"""ColQwen2.5: ColQwen2's layouts on Qwen2.5-VL, and colpali-engine's ColQwen2_5."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.colqwen2.reference import ColQwen2Reference
from periscope_testing.qwen2_5_vl import qwen2_5_vl_config, window_by_window
from periscope_testing.qwen2_vl import Qwen2VLSizes
from periscope_testing.reference import Item, Reference
from periscope_testing.system import System, detailed_page


def config_of(sizes: Qwen2VLSizes, tokenizer: Tokenizer) -> dict[str, Any]:
    """`config.json` of the published model."""
    return qwen2_5_vl_config(sizes, tokenizer, "ColQwen2_5")


make_colqwen2_5 = partial(make_colqwen2, config_of=config_of)


class ColQwen25Reference(ColQwen2Reference):
    """The same on Qwen2.5-VL."""

    def __init__(self, checkpoint: Path, architecture: str = "ColQwen2_5") -> None:
        super().__init__(checkpoint, architecture=architecture)

    def pixels(self, page: Image.Image) -> NDArray[np.uint8]:
        """Return patches, before they are rescaled, window by window, as the first block has them."""
        grids = self.image_inputs([page])["image_grid_thw"]
        return window_by_window(self.model.visual, super().pixels(page), grids)


@contextmanager
def _whole_pages(blocks: range, reference: Reference) -> Iterator[None]:
    """Let these blocks attend to whole pages."""
    assert isinstance(reference, ColQwen2Reference)
    with patch.object(reference.model.visual, "fullatt_block_indexes", blocks):
        yield


@contextmanager
def _as_the_windows_lie(reference: Reference) -> Iterator[None]:
    """Leave visual tokens in the order of the windows."""
    with patch.object(torch, "argsort", lambda index: torch.arange(len(index))):
        yield


# 11 x 9 visual tokens: windows are cut at both edges.
_PAGE = Item(image=detailed_page(308, 252), role="document")

SYSTEMS = (
    System(
        "colqwen2_5",
        "colqwen2_5",
        "qwen2_5_vl",
        partial(make_colqwen2_5, seed=31),
        ColQwen25Reference,
        shallow=partial(make_colqwen2_5, sizes=Qwen2VLSizes(language_layers=1, mlp=64)),
        attention={"vision_encoder": 2, "language_model": 1},
        mistakes={
            "a dense mask": (_PAGE, partial(_whole_pages, range(2))),
            "windows in every block": (_PAGE, partial(_whole_pages, range(0))),
            "no inverse permutation": (_PAGE, _as_the_windows_lie),
        },
    ),
    # Merged, as unlike the first as the layout allows.
    System(
        "colqwen2_5_merged",
        "colqwen2_5",
        "qwen2_5_vl",
        partial(
            make_colqwen2_5,
            sizes=Qwen2VLSizes(vision_layers=3, vision_heads=3, heads=4, kv_heads=2, tied=False, dtype=torch.bfloat16),
            seed=32,
            layout="engine-new",
            form="nested",
            adapter=None,
        ),
        ColQwen25Reference,
    ),
)
