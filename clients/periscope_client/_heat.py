"""Drawing: a map as heat over a page, and a sheet of such pages.

Shapes in names: HW rows and columns of a map or a page, L levels, 3 channels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from periscope_client._embeddings import Floats

Font: TypeAlias = "ImageFont.FreeTypeFont | ImageFont.ImageFont"

# From light to dark in even steps to the eye (matplotlib's inferno, from its light end): the hottest place is the
# darkest on a white page, and red enough for black print to be read through it.
COLOURS = ("#fcffa4", "#f7d13d", "#fb9b06", "#ed6925", "#cf4446", "#a52c60", "#781c6d")
OPACITY = 0.7  # of the hottest place; the coldest is clear

PANEL = (320, 420)  # a page is scaled to fit
ACROSS = 4
GAP = 16
FONT_SIZE = 16
TITLE = 24
SYSTEM_FONTS = ("DejaVuSans.ttf", "Arial.ttf")


def heat_over(page: Image.Image, map_HW: Floats) -> Image.Image:
    """The RGB page under the map, whose centres of cells lie on the centres of the page's."""
    low, high = float(map_HW.min()), float(map_HW.max())
    heat_HW = (map_HW - low) / (high - low) if high > low else np.zeros_like(map_HW)
    smooth = Image.fromarray(heat_HW.astype(np.float32)).resize(page.size, Image.Resampling.BILINEAR)
    level_HW = np.rint(np.asarray(smooth) * 255).astype(np.uint8)
    opacity = Image.fromarray(np.rint(level_HW * OPACITY).astype(np.uint8))
    return Image.composite(Image.fromarray(_colour_table()[level_HW]), page, opacity)


def sheet(
    page: Image.Image, maps: Sequence[tuple[str, Floats]], font_file: str | os.PathLike[str] | None
) -> Image.Image:
    """The page, then the page under each map below its title, at most four side by side."""
    font = _font(font_file)
    scale = min(PANEL[0] / page.width, PANEL[1] / page.height)
    page = page.resize((max(1, round(page.width * scale)), max(1, round(page.height * scale))))
    panels = [("page", page), *((title, heat_over(page, map_HW)) for title, map_HW in maps)]
    across, down = min(ACROSS, len(panels)), math.ceil(len(panels) / ACROSS)
    step_x, step_y = PANEL[0] + GAP, TITLE + page.height + GAP
    paper = Image.new("RGB", (across * step_x + GAP, down * step_y + GAP), "white")
    draw = ImageDraw.Draw(paper)
    for place, (title, panel) in enumerate(panels):
        x, y = GAP + place % ACROSS * step_x, GAP + place // ACROSS * step_y
        draw.text((x, y), _fitted(title, font), "black", font)
        paper.paste(panel, (x, y + TITLE))
        draw.rectangle((x - 1, y + TITLE - 1, x + panel.width, y + TITLE + panel.height), outline="lightgray")
    return paper


def _colour_table() -> NDArray[np.uint8]:
    """The colours of the levels 0 to 255, uint8 [256, 3]."""
    anchors_L3 = np.array([[int(colour[place : place + 2], 16) for place in (1, 3, 5)] for colour in COLOURS])
    at = np.linspace(0, len(COLOURS) - 1, 256)
    channels = [np.interp(at, np.arange(len(COLOURS)), anchors_L3[:, channel]) for channel in range(3)]
    table_L3: NDArray[np.uint8] = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return table_L3


def _font(file: str | os.PathLike[str] | None) -> Font:
    if file is not None:
        try:
            return ImageFont.truetype(os.fspath(file), FONT_SIZE)
        except OSError as error:
            message = f"the font {os.fspath(file)} cannot be read ({error}). Give a TrueType or OpenType file."
            raise OSError(message) from None
    for name in SYSTEM_FONTS:
        try:
            return ImageFont.truetype(name, FONT_SIZE)
        except OSError:
            continue
    return ImageFont.load_default(FONT_SIZE)


def _fitted(title: str, font: Font) -> str:
    """`title`, its word cut short until it fits above a panel; the score stays."""
    word, _, score = title.rpartition("  ")
    while font.getlength(title) > PANEL[0] and word:
        word = word[:-1]
        title = f"{word}…  {score}"
    return title
