"""Pages of PDF files, as images."""

from __future__ import annotations

import collections
import contextlib
import logging
import math
import os
import threading
import weakref
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c
from PIL import Image

from periscope_client._annotations import not_drawn
from periscope_client._content_warning import Sayings
from periscope_client._errors import InvalidInput
from periscope_client._limits import DEFAULT_IMAGE_PIXELS, READ
from periscope_client._missing_fonts import has_missing_font
from periscope_client._source import DocumentSource, Source

POINTS_PER_INCH = 72

# A complete PDF ends with this; readers look for it in so many bytes.
END, END_BYTES = b"%%EOF", 1024

MISSING_FONT = (
    "text that is not drawn, in a font that neither the file nor this machine has (install it, such as Noto CJK)"
)

# PDFium is not thread-safe, not even between documents.
_pdfium = threading.Lock()

# Documents that nobody holds any more: the garbage collector, which finds them in any thread at any time, must not wait
# for the lock, so whoever has it next closes them.
_forgotten: collections.deque[pdfium.PdfDocument] = collections.deque()

_pdfium_log = logging.getLogger("pypdfium2")


@dataclass(frozen=True)
class PdfPage:
    """A page of a PDF, rendered when `image` is first asked for, or when it is about to be sent.

    path: of its file; None where that came as bytes.
    number: counted from 1.
    image: in RGB.
    """

    path: Path | None
    number: int
    _document: _Document = field(repr=False)

    @property
    def name(self) -> str:
        """The page's name in results and messages."""
        return f"{self._document.name}, page {self.number}"

    @cached_property
    def image(self) -> Image.Image:
        """The page, of at most 67108864 pixels. Raises: InvalidInput when it cannot be rendered."""
        return self.render(DEFAULT_IMAGE_PIXELS)

    def render(self, most_pixels: int) -> Image.Image:
        """The page once more, smaller where it would have more pixels. Raises: InvalidInput as `image`."""
        return self._document.render(self.number - 1, most_pixels)


def pdf_pages(source: DocumentSource, dpi: float = 144, *, password: str | None = None) -> Iterator[PdfPage]:
    """The pages of a PDF in order, each rendered only when it is needed, at `dpi` dots per inch.

    Form fields and annotations are drawn with them. A page that would have more pixels than the server takes is
    rendered smaller. What is not drawn, or smaller, is said once a file by a `ContentWarning`.

    source: a path, bytes, or an open file, which is read to its end when the first page is asked for.
    password: opens a PDF that is locked.

    Raises: InvalidInput when the file cannot be read, is not a PDF, has no pages, or is locked with another password;
    ValueError when `dpi` is not positive, TypeError for what is no source or no password.

    >>> retriever.embed_image(pdf_pages("report.pdf"))  # doctest: +SKIP
    """
    if not 0 < dpi < math.inf:
        raise ValueError(f"dpi is a positive number, not {dpi}")
    if not isinstance(password, str | None):
        raise TypeError(f"password is a str, not {type(password).__name__}")
    return _pages(Source(source), dpi, password)


def pdf_page(source: DocumentSource, number: int, dpi: float, password: str | None = None) -> PdfPage:
    """One page of a PDF, counted from 1. Raises: InvalidInput as `pdf_pages`, and when there is no such page."""
    with closing(_pages(Source(source), dpi, password, number - 1)) as pages:
        for page in pages:
            return page
    raise InvalidInput(f"the PDF has no page {number}", READ)


def _pages(source: Source, dpi: float, password: str | None, first: int = 0) -> Generator[PdfPage, None, None]:
    document = _Document(source, dpi, password)
    for index in range(first, document.count):
        yield PdfPage(source.path, index + 1, document)


def is_pdf(path: Path) -> bool:
    """Whether the file is a PDF by its name or its first bytes. A file that cannot be read is none."""
    if path.suffix.lower() == ".pdf":
        return True
    try:
        with path.open("rb") as file:
            return file.read(5) == b"%PDF-"
    except OSError:
        return False


class _Document:
    """An open PDF of `count` pages. It stays open as long as one of its pages is held."""

    def __init__(self, source: Source, dpi: float, password: str | None) -> None:
        self.name = source.name
        self._dpi = dpi
        self._sayings = Sayings(source.name)
        file = source.open()
        file.seek(max(0, file.seek(0, os.SEEK_END) - END_BYTES))
        complete = END in file.read()
        file.seek(0)
        try:
            with _alone():
                # PDFium remembers the last error of any document, and has none for one without pages: leave a mark.
                pdfium_c.FPDF_LoadDocument(b"", None)
                self._pdf = pdfium.PdfDocument(file, password, autoclose=True)
                kind = _begin_forms(self._pdf)
                self.count = len(self._pdf)
        except pdfium.PdfiumError as error:
            file.close()
            raise InvalidInput(_why_closed(error, password), READ) from None
        weakref.finalize(self, _forget, self._pdf)
        if not complete:
            self._sayings.say("end", "the PDF has no end mark: it may be cut short, and its pages lack what is missing")
        if kind == pdfium_c.FORMTYPE_XFA_FULL:
            self._sayings.say("XFA", "an XFA form, whose fields are not drawn: print it to a PDF to have them")

    def render(self, index: int, most_pixels: int) -> Image.Image:
        with _alone():
            try:
                page = self._pdf[index]
                try:
                    asked = self._dpi / POINTS_PER_INCH
                    scale = _fitting(page.get_size(), asked, most_pixels)
                    lost = not_drawn(page, self._pdf.formenv)
                    if not self._sayings.have(MISSING_FONT) and has_missing_font(self._pdf, page):
                        lost.append(MISSING_FONT)
                    image: Image.Image = page.render(scale=scale).to_pil().convert("RGB")
                finally:
                    page.close()
            except pdfium.PdfiumError as error:
                raise InvalidInput(f"page {index + 1} cannot be rendered ({error})", READ) from None
        # Said without the lock: what becomes of a warning is for the program that we are in.
        if scale < asked:
            self._sayings.say(
                "scale",
                f"page {index + 1} is rendered at {scale * POINTS_PER_INCH:.3g} dpi, not {self._dpi:g}, to stay within "
                "the limits of an image; so is every page that is as large",
            )
        for what in lost:
            self._sayings.say(what, f"page {index + 1} has {what}; perhaps others have, too")
        return image


def _fitting(points: tuple[float, float], scale: float, most_pixels: int) -> float:
    """`scale`, or the largest below it with which a page of so many points has no more pixels."""
    width, height = points

    def pixels(scale: float) -> int:
        # As pypdfium2 rounds.
        return math.ceil(width * scale) * math.ceil(height * scale)

    if pixels(scale) > most_pixels:
        scale = min(scale, math.sqrt(most_pixels / (width * height)))
        while pixels(scale) > most_pixels:
            scale *= 0.999
    return scale


def _begin_forms(document: pdfium.PdfDocument) -> int:
    """Have form fields drawn, for which no page may have been loaded before. Returns the kind of form."""
    kind: int = document.get_formtype()
    if kind != pdfium_c.FORMTYPE_NONE:
        # It logs that it cannot draw XFA forms, and how to compile it so that it could. We say what matters here.
        level = _pdfium_log.level
        _pdfium_log.setLevel(logging.ERROR)
        try:
            document.init_forms()
        finally:
            _pdfium_log.setLevel(level)
    return kind


def _why_closed(error: pdfium.PdfiumError, password: str | None) -> str:
    if error.err_code == pdfium_c.FPDF_ERR_PASSWORD:
        if password is None:
            return "the PDF is locked with a password: give it (password=, for the commands PERISCOPE_PDF_PASSWORD)"
        return "the PDF is locked with another password than the one that was given"
    if error.err_code == pdfium_c.FPDF_ERR_FILE:  # the mark
        return "the PDF has no pages"
    if error.err_code == pdfium_c.FPDF_ERR_FORMAT:
        return "the PDF cannot be opened: it is damaged, or no PDF"
    return f"the PDF cannot be opened ({error})"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Nobody else is in PDFium."""
    with _pdfium:
        _close_forgotten()
        yield


def _forget(document: pdfium.PdfDocument) -> None:
    _forgotten.append(document)
    if _pdfium.acquire(blocking=False):
        try:
            _close_forgotten()
        finally:
            _pdfium.release()


def _close_forgotten() -> None:
    while _forgotten:
        _forgotten.popleft().close()
