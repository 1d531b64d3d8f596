"""The pages and queries that all sides of a comparison read."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from periscope_perf.pages import PAGE, SMALL_PAGE, page_files, queries, write_pages


def test_pages_are_files_of_the_wanted_size() -> None:
    for size in (PAGE, SMALL_PAGE):
        (file,) = page_files(1, size)
        image = Image.open(io.BytesIO(file))
        assert (image.format, image.size) == ("PNG", size)


def test_pages_are_the_same_at_every_call_and_differ_from_each_other() -> None:
    pages = page_files(3, SMALL_PAGE)
    assert page_files(2, SMALL_PAGE) == pages[:2]
    assert len(set(pages)) == 3


def test_queries_are_the_same_at_every_call_and_differ_from_each_other() -> None:
    asked = queries(20)
    assert queries(5) == asked[:5]
    assert len(set(asked)) == 20
    assert all(2 <= len(query.split()) <= 12 for query in asked)


def test_pages_can_be_written_for_another_process(tmp_path: Path) -> None:
    pages = page_files(2, SMALL_PAGE)
    paths = write_pages(tmp_path / "pages", pages)
    assert [path.name for path in paths] == ["page-000.png", "page-001.png"]
    assert [path.read_bytes() for path in paths] == pages
