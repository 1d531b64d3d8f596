"""Inputs of every side of a comparison: pages as image files, and queries about them, the same bytes at every call.

The pages are the demonstration's: paragraphs, tables and charts. They are PNG files, as the client writes a page of a
PDF.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from periscope_demo.pages.generator import make_page
from periscope_demo.pages.page import Page
from periscope_demo.queries import make_query

PAGE = (640, 896)
"""Width and height of a page in pixels: a sheet of A4 at 78 dots an inch."""

SMALL_PAGE = (140, 196)
"""Width and height of a page for a run that only shows that everything works."""

# Of another series than training and evaluation.
_SEED = 6127

# As the client writes a page (periscope_client._items).
_COMPRESSION = 1


def page_files(count: int, size: tuple[int, int] = PAGE, *, seed: int = _SEED) -> list[bytes]:
    """Draw pages of `size` (width, height) as PNG files. The first pages of a longer list are those of a shorter."""
    return [_file(number, size, seed) for number in range(count)]


def queries(count: int, *, seed: int = _SEED) -> list[str]:
    """Queries about pages that were drawn from the seed: two to ten words each, no query twice."""
    generator = np.random.default_rng([seed, 1])
    pages = _asked_about(seed)
    asked: dict[str, None] = {}
    while len(asked) < count:
        asked[make_query(generator, pages[int(generator.integers(len(pages)))]).text] = None
    return list(asked)


def passages(count: int, *, seed: int = _SEED) -> list[str]:
    """Texts to rerank: the words of pages that were drawn from the seed, at most 120 each."""
    return [" ".join(placed.term for placed in _page(number, PAGE, seed).words[:120]) for number in range(count)]


def write_pages(folder: Path, files: Sequence[bytes]) -> list[Path]:
    """Write page files as `page-000.png` and so on, for a process that has not got this package."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"page-{number:03}.png" for number in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    return paths


@lru_cache(maxsize=64)
def _file(number: int, size: tuple[int, int], seed: int) -> bytes:
    file = io.BytesIO()
    _page(number, size, seed).image.save(file, "PNG", compress_level=_COMPRESSION)
    return file.getvalue()


@lru_cache(maxsize=1)
def _asked_about(seed: int) -> list[Page]:
    return [_page(number, PAGE, seed) for number in range(12)]


def _page(number: int, size: tuple[int, int], seed: int) -> Page:
    return make_page(np.random.default_rng([seed, 0, number]), size=size)
