"""The pages of the files that a command was given."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from periscope_client._errors import InvalidInput
from periscope_client._items import BrokenItem, ImageItem
from periscope_client._pages import file_page, file_pages
from periscope_client.commands._arguments import positive
from periscope_client.commands._files import secret_of


def add_page_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that reads pages."""
    parser.add_argument(
        "--dpi", type=positive, default=144.0, help="resolution at which PDF pages are rendered (default: %(default)g)"
    )
    parser.add_argument(
        "--pdf-password-file",
        type=Path,
        metavar="FILE",
        help="file with the password of locked PDFs; without it, the password is what PERISCOPE_PDF_PASSWORD says",
    )


class Place(NamedTuple):
    """The origin of an item."""

    file: Path
    page: int | None


class Pages:
    """The images and the pages of some files, read as they are iterated over; `places` says what has been read."""

    def __init__(self, files: Sequence[Path], dpi: float, password: str | None) -> None:
        self._files = files
        self._dpi = dpi
        self._password = password
        self.places: list[Place] = []

    def __iter__(self) -> Iterator[ImageItem]:
        for file in self._files:
            try:
                for page, number in file_pages(file, self._dpi, self._password):
                    self.places.append(Place(file, number))
                    yield page
            except InvalidInput as error:
                # One broken file must not end the iteration, and with it the call.
                self.places.append(Place(file, None))
                yield BrokenItem(os.fspath(file), error)

    def read(self, place: Place) -> ImageItem:
        """The image or the page of a place, once more."""
        return file_page(place.file, place.page, self._dpi, self._password)


def open_pages(args: argparse.Namespace, files: Sequence[Path]) -> Pages:
    """The pages of files, read as the options say. Raises: InvalidInput for the file of the password."""
    return Pages(files, args.dpi, _password(args))


def _password(args: argparse.Namespace) -> str | None:
    """The password of locked PDFs that the options and the environment give. Raises: InvalidInput for its file."""
    if args.pdf_password_file is not None:
        return secret_of(args.pdf_password_file)
    return os.environ.get("PERISCOPE_PDF_PASSWORD") or None
