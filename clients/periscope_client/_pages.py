"""Pages of files of any kind, for the commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from periscope_client._documents import PdfPage, is_pdf, pdf_page, pdf_pages
from periscope_client._errors import InvalidInput
from periscope_client._limits import READ
from periscope_client._tiff import TiffPage, is_tiff, tiff_page, tiff_pages

Page: TypeAlias = "Path | PdfPage | TiffPage"


def file_pages(file: Path, dpi: float, password: str | None = None) -> Iterator[tuple[Page, int | None]]:
    """The pages of a file with their numbers: of a PDF or of a TIFF that has several, else the file itself and None.

    Raises: InvalidInput as `pdf_pages` and `tiff_pages`, and for a pipe: which kind it is would be known too late.
    """
    if file.exists() and not (file.is_file() or file.is_dir()):
        raise InvalidInput("it is a pipe or a device, which cannot be read twice: write it into a file", READ)
    if is_pdf(file):
        for page in pdf_pages(file, dpi, password=password):
            yield page, page.number
    elif is_tiff(file):
        yield from _tiff_pages(file)
    else:
        yield file, None


def file_page(file: Path, number: int | None, dpi: float, password: str | None = None) -> Page:
    """One page that `file_pages` gave, once more. Raises: InvalidInput when it is gone."""
    if number is None:
        return file
    return pdf_page(file, number, dpi, password) if is_pdf(file) else tiff_page(file, number)


def _tiff_pages(file: Path) -> Iterator[tuple[Page, int | None]]:
    pages = tiff_pages(file)
    first = next(pages)
    try:
        second = next(pages, None)
    except InvalidInput:
        # It breaks off: what there is of it is a page of several.
        yield first, 1
        raise
    if second is None:
        yield file, None
        return
    for page in (first, second):
        yield page, page.number
    for page in pages:
        yield page, page.number
