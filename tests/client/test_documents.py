"""PDF pages become images one by one."""

from __future__ import annotations

import threading
from pathlib import Path

import pypdfium2
import pytest

from periscope_client import InvalidInput, PdfPage, _documents, pdf_pages


def test_pages_in_order_at_the_wanted_resolution(pdf: Path) -> None:
    pages = list(pdf_pages(pdf))
    assert [(page.path, page.number) for page in pages] == [(pdf, 1), (pdf, 2), (pdf, 3)]
    assert [page.image.size for page in pages] == [(144, 144), (288, 144), (432, 144)]
    assert {page.image.mode for page in pages} == {"RGB"}
    assert [page.image.width for page in pdf_pages(str(pdf), dpi=36)] == [36, 72, 108]
    assert pages[1].name == f"{pdf}, page 2"


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices of the pages that are rendered, as they are."""
    indices: list[int] = []
    render = _documents._render

    def counting(document: object, index: int, scale: float) -> object:
        indices.append(index)
        return render(document, index, scale)

    monkeypatch.setattr(_documents, "_render", counting)
    return indices


def test_rendered_only_when_asked_for(pdf: Path, rendered: list[int]) -> None:
    pages = pdf_pages(pdf)
    next(pages)
    next(pages)
    assert rendered == [0, 1]
    pages.close()  # type: ignore[attr-defined]


def test_two_documents_in_several_threads(pdf: Path) -> None:
    seen: list[PdfPage] = []
    threads = [threading.Thread(target=lambda: seen.extend(pdf_pages(pdf))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 18


def test_bad_files(tmp_path: Path, pdf: Path) -> None:
    broken, empty = tmp_path / "broken.pdf", tmp_path / "empty.pdf"
    broken.write_bytes(pdf.read_bytes()[:100])
    empty.write_bytes(b"")
    for path in (broken, empty):
        with pytest.raises(InvalidInput, match="read: the PDF cannot be opened"):
            list(pdf_pages(path))
    with pytest.raises(InvalidInput, match="No such file"):
        list(pdf_pages(tmp_path / "missing.pdf"))
    with pytest.raises(ValueError, match="dpi is a positive number, not 0"):
        pdf_pages(pdf, dpi=0)


def test_a_page_that_cannot_be_rendered(pdf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __getitem__(self, index: int) -> None:
            raise pypdfium2.PdfiumError("Failed to load page.")

    with pytest.raises(InvalidInput, match=r"page 3 cannot be rendered \(Failed to load page"):
        _documents._render(Broken(), 2, 1.0)


def test_one_page_without_those_before_it(pdf: Path, rendered: list[int]) -> None:
    wanted = list(pdf_pages(pdf, dpi=72))[1]
    rendered.clear()
    page = _documents.pdf_page(pdf, 2, dpi=72)
    assert (page.name, page.image.tobytes()) == (wanted.name, wanted.image.tobytes())
    assert rendered == [1]
    with pytest.raises(InvalidInput, match="the PDF has no page 4"):
        _documents.pdf_page(pdf, 4, dpi=72)
