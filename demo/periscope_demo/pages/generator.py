"""Pages from seeds: a style, columns, and blocks in them until the page is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from periscope_demo.pages.blocks import Frame, Style, WordSource, heading, paragraph, table
from periscope_demo.pages.charts import bars, lines, pie
from periscope_demo.pages.fonts import FAMILIES
from periscope_demo.pages.page import ROW, Canvas, Colour, Page
from periscope_demo.pages.vocabulary import WORDS

Block = Callable[[Canvas, Frame, Style, WordSource], int]

# Width and height in pixels, multiples of 28: no page is resized on its way to the model.
FORMATS = ((280, 364), (364, 280), (308, 308))

_PAPERS: tuple[Colour, ...] = ((255, 255, 255), (255, 255, 255), (250, 248, 240), (240, 244, 250), (246, 246, 246))
_INKS: tuple[Colour, ...] = ((0, 0, 0), (20, 20, 20), (30, 30, 60), (50, 40, 30))
_ACCENTS: tuple[Colour, ...] = ((160, 30, 40), (20, 70, 150), (20, 110, 60), (110, 40, 130), (40, 40, 40), (180, 90, 0))
_TINTS: tuple[Colour, ...] = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (23, 190, 207),
)


@dataclass(frozen=True)
class Look:
    """The range of looks that pages may have.

    sizes: the range of type sizes in pixels.
    families: of type.
    noise: its standard deviation, of 255.
    columns: whether some pages have two.
    tab: words start at multiples of so many pixels.
    shift: the most pixels by which lines leave the baseline grid.
    """

    sizes: tuple[int, int] = (15, 19)
    families: tuple[str, ...] = tuple(FAMILIES)
    noise: float = 4.0
    columns: bool = True
    tab: int = 14
    shift: int = 1


def make_page(
    generator: np.random.Generator,
    pool: Sequence[str] = WORDS,
    size: tuple[int, int] | None = None,
    look: Look | None = None,
) -> Page:
    """Draw one page with content words from `pool`, each at most once.

    `size` is width and height in pixels; without it one of `FORMATS`. Equal generators draw equal pages.
    """
    look = look or Look()
    width, height = size or FORMATS[int(generator.integers(len(FORMATS)))]
    style = _style(generator, look)
    shift = int(generator.integers(-look.shift, look.shift + 1))
    canvas = Canvas(Image.new("RGB", (width, height), style.paper), frozenset(WORDS), look.tab, shift)
    words = WordSource(generator, _shuffled(generator, pool))
    with suppress(StopIteration):  # a small pool is used up: the rest of the page stays empty
        _fill(canvas, style, words, look.columns)
    if look.noise:
        canvas.image = _noisy(canvas.image, generator, look.noise)
    return canvas.page()


def _style(generator: np.random.Generator, look: Look) -> Style:
    def choose(colours: Sequence[Colour]) -> Colour:
        return colours[int(generator.integers(len(colours)))]

    return Style(
        family=look.families[int(generator.integers(len(look.families)))],
        size=int(generator.integers(look.sizes[0], look.sizes[1] + 1)),
        paper=choose(_PAPERS),
        ink=choose(_INKS),
        accent=choose(_ACCENTS),
        tints=tuple(_TINTS[index] for index in generator.permutation(len(_TINTS))),
    )


def _fill(canvas: Canvas, style: Style, words: WordSource, columns: bool) -> None:
    generator = words.generator
    width, height = canvas.image.size
    margin = float(generator.integers(6, 15))
    rows, top = height // ROW, 0
    count = 2 if columns and width >= 300 and generator.random() < 0.4 else 1
    if count == 2:
        top += heading(canvas, Frame(margin, 0, width - 2 * margin, rows), style, words)
    gap = 14.0
    column = (width - 2 * margin - gap * (count - 1)) / count
    for number in range(count):
        row = top
        for block in _blocks(generator, number):
            if row >= rows:
                break
            row += block(canvas, Frame(margin + number * (column + gap), row * ROW, column, rows - row), style, words)
            row += bool(generator.random() < 0.2)


def _blocks(generator: np.random.Generator, column: int) -> Iterator[Block]:
    """Yield the blocks of a column: a heading first, mostly, then anything."""
    if column == 0 and generator.random() < 0.8:
        yield heading
    kinds: tuple[Block, ...] = (heading, paragraph, paragraph, paragraph, table, bars, lines, pie)
    for _ in range(12):
        yield kinds[int(generator.integers(len(kinds)))]


def _shuffled(generator: np.random.Generator, pool: Sequence[str]) -> Iterator[str]:
    return iter([pool[index] for index in generator.permutation(len(pool))])


def _noisy(image: Image.Image, generator: np.random.Generator, strength: float) -> Image.Image:
    pixels_HWC: npt.NDArray[np.float32] = np.asarray(image, dtype=np.float32)
    sigma = float(generator.uniform(0, strength))
    noise_HW1 = generator.standard_normal((*pixels_HWC.shape[:2], 1), dtype=np.float32) * sigma
    return Image.fromarray(np.clip(pixels_HWC + noise_HW1, 0, 255).astype(np.uint8))
