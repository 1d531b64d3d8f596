"""PDF pages become images one by one."""

from __future__ import annotations

import io
import math
import os
import subprocess
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pypdfium2
import pytest
from PIL import Image

from periscope_client import ContentWarning, InvalidInput, Limits, PdfPage, Retriever, _documents, pdf_pages
from periscope_client._items import encode_image

from .pdfs import blank, locked, pdf_file, stream


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
    render = _documents._Document.render

    def counting(document: _documents._Document, index: int, most_pixels: int) -> Image.Image:
        indices.append(index)
        return render(document, index, most_pixels)

    monkeypatch.setattr(_documents._Document, "render", counting)
    return indices


def test_rendered_only_when_needed(pdf: Path, rendered: list[int]) -> None:
    pages = list(pdf_pages(pdf))
    assert rendered == []
    assert pages[1].image is pages[1].image
    assert rendered == [1]
    encode_image(pages[2])
    assert rendered == [1, 2]


def test_bytes_and_open_files(pdf: Path) -> None:
    wanted = [page.image.tobytes() for page in pdf_pages(pdf)]
    with pdf.open("rb") as file:
        sources = {
            f"{pdf.stat().st_size} bytes": pdf.read_bytes(),
            str(pdf): file,
            "BytesIO": io.BytesIO(pdf.read_bytes()),
        }
        for name, source in sources.items():
            pages = list(pdf_pages(source))  # type: ignore[arg-type]
            assert [page.name for page in pages] == [f"{name}, page {number}" for number in (1, 2, 3)]
            assert [page.path for page in pages] == [None] * 3
            assert [page.image.tobytes() for page in pages] == wanted
    with pdf.open(errors="replace") as text, pytest.raises(InvalidInput, match=r"as text: open it with mode 'rb'"):
        list(pdf_pages(text))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"the file cannot be read \(.*closed file"):
        list(pdf_pages(file))
    with pytest.raises(TypeError, match="password is a str, not bytes"):
        pdf_pages(pdf, password=b"secret")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a document is a path, bytes or an open file, not int"):
        pdf_pages(7)  # type: ignore[arg-type]


def test_a_pipe(pdf: Path) -> None:
    with subprocess.Popen(["cat", pdf], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert len(list(pdf_pages(f"/dev/fd/{process.stdout.fileno()}"))) == 3


def descriptors(path: Path) -> int:
    """The number of times that this process has the file open."""
    links = Path("/proc/self/fd")
    return sum(os.path.realpath(link) == str(path) for link in links.iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_a_file_is_open_as_long_as_a_page_is_held(pdf: Path) -> None:
    pages = list(pdf_pages(pdf))
    assert descriptors(pdf) == 1
    last = pages.pop()
    pages.clear()
    assert last.image.size == (432, 144)
    with _documents._pdfium:
        del last
        # The thread that drops the last page may be in the middle of PDFium, or keep others waiting.
        assert descriptors(pdf) == 1
    assert len(list(pdf_pages(blank([(9, 9)])))) == 1
    assert descriptors(pdf) == 0


def test_two_documents_in_several_threads(pdf: Path) -> None:
    seen: list[tuple[int, int]] = []
    threads = [
        threading.Thread(target=lambda: seen.extend(page.image.size for page in pdf_pages(pdf))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [(144, 144)] * 6 + [(288, 144)] * 6 + [(432, 144)] * 6


def test_bad_files(tmp_path: Path, pdf: Path) -> None:
    broken, empty = tmp_path / "broken.pdf", tmp_path / "empty.pdf"
    broken.write_bytes(pdf.read_bytes()[:100])
    empty.write_bytes(b"")
    for source, message in (
        (broken, "read: the PDF cannot be opened: it is damaged, or no PDF"),
        (empty, r"read: the file is empty \(0 bytes\)"),
        (b"", r"read: the file is empty \(0 bytes\)"),
        (tmp_path / "missing.pdf", r"read: the file cannot be read \(No such file"),
        (tmp_path, r"read: the file cannot be read \(Is a directory"),
        ("nul\0byte", r"read: the file cannot be read \(embedded null byte"),
        (blank([]), "read: the PDF has no pages"),
        (b"no PDF at all", "read: the PDF cannot be opened: it is damaged, or no PDF"),
        (blank([]), "read: the PDF has no pages"),
    ):
        with pytest.raises(InvalidInput, match=message):
            list(pdf_pages(source))
    for dpi in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="dpi is a positive number, not"):
            pdf_pages(pdf, dpi=dpi)


def test_passwords() -> None:
    data = locked("sesame")
    with pytest.raises(
        InvalidInput, match=r"locked with a password: give it \(password=, for the commands PERISCOPE_PDF"
    ):
        list(pdf_pages(data))
    with pytest.raises(InvalidInput, match="locked with another password than the one that was given"):
        list(pdf_pages(data, password="simsim"))
    assert [page.image.size for page in pdf_pages(data, dpi=72, password="sesame")] == [(200, 100)]
    # One that is not needed does no harm: a folder holds locked files and others.
    assert len(list(pdf_pages(blank([(200, 100)]), password="sesame"))) == 1


def test_a_page_among_good_ones_that_cannot_be_loaded(slim: Retriever, retriever: Retriever) -> None:
    data = blank([(9, 9)] * 3).replace(b"4 0 obj\n<< /Type /Page ", b"4 0 obj\n<< /Type /Nope ")
    embeddings = retriever.embed_image(pdf_pages(data), on_error="keep")
    (error,) = embeddings.errors.values()
    assert (error.index, error.name) == (1, f"{len(data)} bytes, page 2")
    assert str(error.cause) == "read: page 2 cannot be rendered (Failed to load page.)"
    assert [late is None for late in embeddings.late or ()] == [False, True, False]


def test_a_file_that_is_cut_short_says_so() -> None:
    whole = pdf_file(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Contents 4 0 R >>",
            stream(b"0 0 100 50 re f"),
        ]
    )
    assert ink(next(pdf_pages(whole, dpi=72)).image) == 5000
    # As in a file that is made for the web, what readers need first comes first.
    cut = whole[: whole.index(b"4 0 obj")].replace(b"1 0 obj", b"trailer << /Root 1 0 R >>\n1 0 obj", 1)
    with pytest.warns(ContentWarning, match=f"{len(cut)} bytes: the PDF has no end mark: it may be cut short"):
        (page,) = pdf_pages(cut, dpi=72)
    assert ink(page.image) == 0


def ink(image: Image.Image) -> int:
    """The number of pixels that are not white."""
    return int((np.asarray(image.convert("L")) < 250).sum())


@pytest.fixture
def wide() -> Iterator[PdfPage]:
    """The first of two pages of 14400 by 7200 points: 415 million pixels at 144 dots per inch."""
    first, second = pdf_pages(blank([(14400, 7200)] * 2))
    yield first
    # Said of the first page.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second.render(1000)


def test_a_page_is_rendered_within_the_limit_of_pixels(wide: PdfPage) -> None:
    with pytest.warns(ContentWarning, match=r"page 1 is rendered at 3.53 dpi, not 144, to stay within the limits"):
        content = encode_image(wide, Limits(image_pixels=250_000))
    with Image.open(io.BytesIO(content)) as sent:
        assert 240_000 < sent.width * sent.height <= 250_000
        assert sent.width == pytest.approx(2 * sent.height, abs=2)


def test_a_page_is_rendered_within_the_limit_of_bytes(wide: PdfPage) -> None:
    with pytest.warns(ContentWarning, match="page 1 is rendered at"):
        content = encode_image(wide, Limits(image_bytes=1000, image_pixels=10_000_000))
    assert len(content) <= 1000
    with Image.open(io.BytesIO(content)) as sent:
        assert sent.width > 100
    with pytest.raises(InvalidInput, match=r"above the server's limit of 10\. Send a smaller one"):
        encode_image(wide, Limits(image_bytes=10, image_pixels=100))


@pytest.mark.parametrize("points", [(14400, 3), (3, 14400), (1000, 1000), (1001.7, 999.3)])
@pytest.mark.parametrize("most", [1, 10, 997, 40_000])
def test_rounding_never_exceeds_a_limit(points: tuple[float, float], most: int) -> None:
    scale = _documents._fitting(points, 2, most)
    sides = [math.ceil(side * scale) for side in points]
    assert sides[0] * sides[1] <= most
    assert _documents._fitting(points, scale, most) == scale


def test_a_page_that_cannot_be_rendered(pdf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(page: object, **options: object) -> None:
        raise pypdfium2.PdfiumError("Rendering failed.")

    monkeypatch.setattr(pypdfium2.PdfPage, "render", fail)
    page = list(pdf_pages(pdf))[2]
    with pytest.raises(InvalidInput, match=r"page 3 cannot be rendered \(Rendering failed"):
        encode_image(page)


def test_one_page_without_those_before_it(pdf: Path, rendered: list[int]) -> None:
    wanted = list(pdf_pages(pdf, dpi=72))[1].image
    rendered.clear()
    page = _documents.pdf_page(pdf, 2, dpi=72)
    assert (page.name, page.image.tobytes()) == (f"{pdf}, page 2", wanted.tobytes())
    assert rendered == [1]
    with pytest.raises(InvalidInput, match="the PDF has no page 4"):
        _documents.pdf_page(pdf, 4, dpi=72)
