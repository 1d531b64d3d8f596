"""Heat over pages: where it lies, what it hides, how a sheet is laid out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFont

from periscope_client import SimilarityMaps, _heat

SIZES = [(300, 200), (200, 300), (90, 640), (1, 50)]


def one_hot(rows: int, columns: int, row: int, column: int) -> NDArray[np.float32]:
    map_HW = np.full((rows, columns), 0.1, np.float32)
    map_HW[row, column] = 0.7
    return map_HW


def some_maps(*maps: NDArray[np.float32], words: tuple[str, ...] = ()) -> SimilarityMaps:
    return SimilarityMaps(
        words or tuple("abcdefgh"[: len(maps)]), np.stack(maps), np.arange(len(maps), dtype=np.float32)
    )


def darkest(image: Image.Image) -> tuple[float, float]:
    """Centre (x, y) of the darkest pixels."""
    grey_HW = np.asarray(image.convert("L"), dtype=np.uint8)
    y, x = np.nonzero(grey_HW == grey_HW.min())
    return float(x.mean()), float(y.mean())


@pytest.mark.parametrize(("rows", "columns", "row", "column"), [(3, 5, 0, 4), (3, 5, 2, 1), (7, 2, 4, 0), (1, 9, 0, 7)])
def test_the_hot_spot_lies_where_the_map_is_largest(rows: int, columns: int, row: int, column: int) -> None:
    width, height = 50 * columns, 30 * rows
    drawn = some_maps(one_hot(rows, columns, row, column)).overlay(Image.new("RGB", (width, height), "white"), 0)

    assert drawn.size == (width, height)
    x, y = darkest(drawn)
    # In the middle of its cell, or at the border of the page beyond which there is no neighbour.
    assert 50 * column <= x < 50 * (column + 1)
    assert 30 * row <= y < 30 * (row + 1)


def test_heat_is_smooth_clear_at_its_coldest_and_legible_at_its_hottest() -> None:
    map_HW = np.linspace(-0.2, 0.4, 12, dtype=np.float32)[None]
    page = Image.new("RGB", (240, 10), "white")
    page.paste("black", (0, 0, 240, 5))
    drawn = np.asarray(some_maps(map_HW).overlay(page, 0)).astype(int)
    print_W, paper_W = drawn[2].sum(axis=1), drawn[7].sum(axis=1)

    assert drawn[7, 0].tolist() == [255, 255, 255]
    assert drawn[2, 0].tolist() == [0, 0, 0]
    assert np.diff(paper_W).max() <= 2, "the paper darkens as the heat grows, but for rounding"
    assert np.abs(np.diff(paper_W)).max() < 20, "and nowhere in a step"
    assert (paper_W - print_W).min() > 150, "print stays darker than paper"


@pytest.mark.parametrize("shape", [(1, 1), (2, 3)])
def test_a_flat_map_has_no_heat(shape: tuple[int, int]) -> None:
    page = Image.linear_gradient("L").convert("RGB")
    drawn = some_maps(np.full(shape, 0.3, np.float32)).overlay(page, 0)
    assert ImageChops.difference(drawn, page).getbbox() is None


def test_colours_fall_evenly_in_lightness() -> None:
    """So that an equal step of similarity looks equal everywhere (CIE L*)."""
    linear_L3 = (_heat._colour_table() / 255) ** 2.2
    lightness_L = 116 * np.cbrt(linear_L3 @ [0.2126, 0.7152, 0.0722]) - 16
    steps = -np.diff(lightness_L[::32])
    assert steps.min() > 0.7 * steps.max()


@pytest.mark.parametrize("size", SIZES)
def test_overlays_have_the_size_of_the_page(size: tuple[int, int]) -> None:
    assert some_maps(one_hot(3, 2, 0, 0)).overlay(Image.new("RGB", size), 0).size == size
    with pytest.raises(IndexError):
        some_maps(one_hot(3, 2, 0, 0)).overlay(Image.new("RGB", size), 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 3, 4, 8])
def test_a_sheet_holds_the_page_and_a_panel_a_word(size: tuple[int, int], count: int) -> None:
    """Each panel's hot spot lies in its own cell of its own panel."""
    places = [(place % 3, place % 2) for place in range(count)]
    maps = some_maps(*(one_hot(3, 2, row, column) for row, column in places))
    drawn = maps.picture(Image.new("RGB", size, "white"))

    scale = min(_heat.PANEL[0] / size[0], _heat.PANEL[1] / size[1])
    width, height = (max(1, round(side * scale)) for side in size)
    across = min(_heat.ACROSS, count + 1)
    assert drawn.width == across * (_heat.PANEL[0] + _heat.GAP) + _heat.GAP
    assert drawn.height == -(-(count + 1) // 4) * (_heat.TITLE + height + _heat.GAP) + _heat.GAP
    for panel in range(count + 1):
        x = _heat.GAP + panel % 4 * (_heat.PANEL[0] + _heat.GAP)
        y = _heat.GAP + _heat.TITLE + panel // 4 * (_heat.TITLE + height + _heat.GAP)
        cut = drawn.crop((x, y, x + width, y + height))
        if panel == 0:
            assert cut.getextrema() == ((255, 255),) * 3, "the page itself"
            continue
        row, column = places[panel - 1]
        hot_x, hot_y = darkest(cut)
        assert (int(hot_y / height * 3), int(hot_x / width * 2)) == (row, column) or width < 2


def titles(drawn: Image.Image) -> list[bool]:
    """Whether something is written above each panel of the first row."""
    step = _heat.PANEL[0] + _heat.GAP
    cells = [
        (x, _heat.GAP, x + _heat.PANEL[0], _heat.GAP + _heat.TITLE - 2) for x in range(_heat.GAP, drawn.width - 1, step)
    ]
    return [drawn.crop(cell).convert("L").getextrema() != (255, 255) for cell in cells]


def test_words_are_written_above_their_panels_and_cut_to_fit() -> None:
    page = Image.new("RGB", (64, 64), "white")
    drawn = some_maps(one_hot(2, 2, 0, 0), one_hot(2, 2, 0, 0), words=("revenue", "w" * 500)).picture(page)
    assert titles(drawn) == [True, True, True]
    font = ImageFont.load_default(_heat.FONT_SIZE)
    fitted = _heat._fitted("w" * 500 + "  1.25", font)
    assert font.getlength(fitted) <= _heat.PANEL[0]
    assert fitted.endswith("w…  1.25")
    assert _heat._fitted("revenue  1.25", font) == "revenue  1.25"


def test_fonts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = Image.new("RGB", (64, 64), "white")
    maps = some_maps(one_hot(2, 2, 0, 0))
    monkeypatch.setattr(_heat, "SYSTEM_FONTS", ("no such font.ttf",))
    assert titles(maps.picture(page)) == [True, True], "without a font of the system"

    font = tmp_path / "font.ttf"
    font.write_bytes(b"?")
    with pytest.raises(OSError, match=r"font\.ttf cannot be read .* Give a TrueType or OpenType file"):
        maps.picture(page, font)
    builtin = ImageFont.load_default(_heat.FONT_SIZE)
    assert isinstance(builtin, ImageFont.FreeTypeFont)
    font.write_bytes(builtin.font_bytes)
    assert titles(maps.picture(page, font)) == [True, True]
    monkeypatch.setattr(_heat, "SYSTEM_FONTS", (str(font),))
    assert titles(maps.picture(page)) == [True, True]
