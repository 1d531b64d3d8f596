"""The fonts of the pages: those that every installation of matplotlib carries, so that pages look the same anywhere."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import ImageFont

# Family -> its regular and its bold face.
FAMILIES = {
    "sans": ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"),
    "serif": ("DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf"),
    "times": ("STIXGeneral.ttf", "STIXGeneralBol.ttf"),
    "modern": ("cmss10.ttf", "DejaVuSans-Bold.ttf"),
}

# The factor that makes the letters of a family as large as those of "sans" at the same size.
_SCALE = {"sans": 1.0, "serif": 1.0, "times": 1.18, "modern": 1.18}


@lru_cache(maxsize=256)
def font(family: str, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return a face of a family; `size` in pixels, as of "sans"."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    # Basic layout: the same pixels with and without the Raqm library.
    return ImageFont.truetype(
        str(folder / FAMILIES[family][bold]), round(size * _SCALE[family]), layout_engine=ImageFont.Layout.BASIC
    )
