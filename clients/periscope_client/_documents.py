"""Pages of PDF files, as images."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pypdfium2 as pdfium
from PIL import Image

from periscope_client._errors import InvalidInput

POINTS_PER_INCH = 72

# PDFium is not thread-safe, not even between documents.
_pdfium = threading.Lock()


@dataclass(frozen=True)
class PdfPage:
    """One rendered page: `path` of the file, `number` counted from 1, `image` in RGB."""

    path: Path
    number: int
    image: Image.Image

    @property
    def name(self) -> str:
        """What the page is called in names and messages."""
        return f"{self.path}, page {self.number}"


def pdf_pages(path: str | os.PathLike[str], dpi: float = 144) -> Iterator[PdfPage]:
    """The pages of a PDF in order, each rendered only when it is asked for, at `dpi` dots per inch.

    Raises: InvalidInput when the file cannot be read, is not a PDF, or is locked with a password; ValueError when `dpi`
    is not positive.

    >>> retriever.embed_image(pdf_pages("report.pdf"))  # doctest: +SKIP
    """
    if not dpi > 0:
        raise ValueError(f"dpi is a positive number, not {dpi}")
    return _pages(Path(path), dpi / POINTS_PER_INCH)


def pdf_page(path: str | os.PathLike[str], number: int, dpi: float) -> PdfPage:
    """One page of a PDF, counted from 1. Raises: InvalidInput as `pdf_pages`, and when there is no such page."""
    with closing(_pages(Path(path), dpi / POINTS_PER_INCH, number - 1)) as pages:
        for page in pages:
            return page
    raise InvalidInput(f"the PDF has no page {number}", "read")


def _pages(path: Path, scale: float, first: int = 0) -> Generator[PdfPage, None, None]:
    try:
        # Opened by us, because PDFium's own message for a missing file names neither the file nor the reason.
        file = path.open("rb")
    except OSError as error:
        raise InvalidInput(f"the file cannot be read ({error.strerror})", "read") from None
    with file:
        try:
            with _pdfium:
                document = pdfium.PdfDocument(file)
                count = len(document)
        except pdfium.PdfiumError as error:
            raise InvalidInput(f"the PDF cannot be opened ({error})", "read") from None
        try:
            for index in range(first, count):
                yield PdfPage(path, index + 1, _render(document, index, scale))
        finally:
            with _pdfium:
                document.close()


def _render(document: pdfium.PdfDocument, index: int, scale: float) -> Image.Image:
    with _pdfium:
        try:
            page = document[index]
            image: Image.Image = page.render(scale=scale).to_pil().convert("RGB")
            page.close()
        except pdfium.PdfiumError as error:
            raise InvalidInput(f"page {index + 1} cannot be rendered ({error})", "read") from None
    return image


def is_pdf(path: Path) -> bool:
    """Whether the file is a PDF by its name or its first bytes. A file that cannot be read is none."""
    if path.suffix.lower() == ".pdf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(5) == b"%PDF-"
    except OSError:
        return False
