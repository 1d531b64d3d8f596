"""Pages of TIFF files, as images."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from PIL import Image, TiffImagePlugin

from periscope_client._content_warning import Sayings
from periscope_client._errors import InvalidInput
from periscope_client._limits import READ, Limits
from periscope_client._source import DocumentSource, Source

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

# Tags of an image in the file, and what they say of one that is no page: a reduced copy of one, or a mask.
NEW_SUBFILE_TYPE, REDUCED_OR_MASK = 254, 0b101
SUBFILE_TYPE, REDUCED = 255, 2


@dataclass(frozen=True)
class TiffPage:
    """A page of a TIFF file, read when `image` is first asked for, or when it is about to be sent.

    path: of its file; None where that came as bytes.
    number: counted from 1.
    image: as it is in the file.
    """

    path: Path | None
    number: int
    _document: _Document = field(repr=False)
    _index: int = field(repr=False)

    @property
    def name(self) -> str:
        """The page's name in results and messages."""
        return f"{self._document.name}, page {self.number}"

    @cached_property
    def image(self) -> Image.Image:
        """The page. Raises: InvalidInput when it cannot be decoded."""
        return self.read(Limits())

    @property
    def sayings(self) -> Sayings:
        """Warnings already given of the file."""
        return self._document.sayings

    def read(self, limits: Limits) -> Image.Image:
        """The page once more. Raises: InvalidInput as `image`, and above the limits before it is decoded."""
        return self._document.read(self._index, limits)


def tiff_pages(source: DocumentSource) -> Iterator[TiffPage]:
    """The pages of a TIFF in order, each read only when it is needed. Reduced copies and masks of a page are none.

    source: a path, bytes, or an open file, which is read to its end when the first page is asked for.

    Raises: InvalidInput when the file cannot be read, is not a TIFF, or breaks off after some of its pages.

    >>> retriever.embed_image(tiff_pages("fax.tif"))  # doctest: +SKIP
    """
    return _pages(Source(source))


def _pages(source: Source) -> Iterator[TiffPage]:
    document = _Document(source)
    for number, index in enumerate(document.pages(), start=1):
        yield TiffPage(source.path, number, document, index)


def tiff_page(source: DocumentSource, number: int) -> TiffPage:
    """One page of a TIFF, counted from 1. Raises: InvalidInput as `tiff_pages`, and when there is no such page."""
    for page in tiff_pages(source):
        if page.number == number:
            return page
    raise InvalidInput(f"the TIFF has no page {number}", READ)


def is_tiff(path: Path) -> bool:
    """Whether the file begins as a TIFF does. A file that cannot be read is none."""
    try:
        with path.open("rb") as file:
            return file.read(4) in MAGIC
    except (OSError, ValueError):
        return False


class _Document:
    """An open TIFF. It stays open as long as one of its pages is held, and is in one place at a time."""

    def __init__(self, source: Source) -> None:
        self.name = source.name
        self.sayings = Sayings(source.name)
        self._turn = threading.Lock()
        file = source.open()
        weakref.finalize(self, file.close)
        try:
            self._image = Image.open(file, formats=("TIFF",))
            # Looking for pages may fail in a way that leaves nothing right.
            self._searched = Image.open(file, formats=("TIFF",))
        # See `page_places`.
        except Exception as error:
            raise InvalidInput(f"the TIFF cannot be opened ({_reason(error)})", READ) from None

    def pages(self) -> Iterator[int]:
        """The places of its pages. See `page_places`."""
        places = page_places(self._searched)
        while True:
            with self._turn:
                place = next(places, None)
            if place is None:
                return
            yield place

    def read(self, index: int, limits: Limits) -> Image.Image:
        with self._turn:
            try:
                seek(self._image, index)
                Limits(image_pixels=limits.page_pixels).check_pixels(self._image.size)
                self._image.load()
                return self._image.copy()
            except InvalidInput:
                raise
            except Exception as error:
                raise InvalidInput(f"the page cannot be decoded ({_reason(error)})", READ) from None


def page_places(image: Image.Image) -> Iterator[int]:
    """The places in an opened TIFF of the images that are pages; the first where all are reduced copies or masks.

    Goes to each of them. Raises: InvalidInput where the file breaks off.
    """
    index = found = 0
    while True:
        try:
            image.seek(index)
        except EOFError:
            break
        # Pillow raises whatever it stumbles over. The tags may have been read, and say whether this is a page.
        except Exception as error:
            if image.tell() != index:
                raise InvalidInput(f"the TIFF breaks off after page {found} ({_reason(error)})", READ) from None
        if _is_page(image):
            found += 1
            yield index
        index += 1
    if not found:
        image.seek(0)
        yield 0


def seek(image: Image.Image, index: int) -> None:
    """Go to an image. Where Pillow has failed to go it thinks that it is, with what it had before."""
    image.seek(0)
    image.seek(index)


def _is_page(image: Image.Image) -> bool:
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    kind, old_kind = image.tag_v2.get(NEW_SUBFILE_TYPE, 0), image.tag_v2.get(SUBFILE_TYPE, 0)
    return not (isinstance(kind, int) and kind & REDUCED_OR_MASK) and old_kind != REDUCED


def _reason(error: Exception) -> str:
    # Without the addresses of objects.
    return str(error).split(" <")[0] or type(error).__name__
