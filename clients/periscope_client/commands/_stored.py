"""Vectors that `periscope embed` wrote, as documents of a search."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from periscope_client._contract import Output
from periscope_client._embeddings import Embeddings
from periscope_client._errors import FingerprintMismatch, MissingVectors, VectorFileError
from periscope_client._info import RetrieverInfo, choose_outputs
from periscope_client.commands._vectors import made_of

_PAGE = re.compile(r"(.*), page (\d+)", re.DOTALL)


class Stored(NamedTuple):
    """The vectors of one file.

    path: of the file.
    embeddings: its content.
    of_texts: whether items are texts, not files.
    """

    path: Path
    embeddings: Embeddings
    of_texts: bool

    def document(self, name: str) -> dict[str, object]:
        """An item as JSON says it: the text, or the file and the page."""
        if self.of_texts:
            return {"text": name}
        file, page = file_and_page(name)
        return {"file": file, "page": page}

    def has(self, output: Output) -> bool:
        """Whether there are such vectors."""
        return getattr(self.embeddings, output) is not None

    def only(self, output: Output) -> Embeddings:
        """The vectors of one kind, without the others."""
        if output == "late":
            return dataclasses.replace(self.embeddings, dense=None)
        return dataclasses.replace(self.embeddings, late=None)


def load(path: Path) -> Stored:
    """Read a file. Raises: VectorFileError."""
    try:
        return Stored(path, Embeddings.load(path), made_of(path) == "texts")
    except OSError as error:
        raise VectorFileError(f"{path} cannot be read ({error.strerror})") from None


def file_and_page(name: str) -> tuple[str, int | None]:
    """The file and the page that an item's name tells, the page None where it is no page.

    >>> file_and_page("report, page 1.pdf, page 12"), file_and_page("scan.png")
    (('report, page 1.pdf', 12), ('scan.png', None))
    """
    match = _PAGE.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, None)


def require_comparable(stored: Sequence[Stored], info: RetrieverInfo) -> None:
    """Raises: FingerprintMismatch unless all vectors are of the weights that are served."""
    for path, embeddings, _ in stored:
        if embeddings.fingerprint != info.fingerprint:
            raise FingerprintMismatch(
                f"{path} holds vectors of {embeddings.recipe!r} (fingerprint {embeddings.fingerprint}), the retriever "
                f"{info.model!r} gives those of {info.recipe!r} (fingerprint {info.fingerprint}). Embed them "
                "again, or name the retriever that their vectors are of."
            )


def choose_compared(wanted: Output | None, info: RetrieverInfo, stored: Sequence[Stored]) -> tuple[Output, int | None]:
    """The vectors to compare: "late" or "dense", and the width of dense vectors where it is not the retriever's.

    Raises: MissingVectors where the retriever or a file lacks what is wanted, or files differ in width.
    """
    common = [output for output in info.outputs if all(one.has(output) for one in stored)]
    output = wanted or (common or info.outputs)[0]
    choose_outputs(info, [output])
    for one in stored:
        if not one.has(output):
            raise MissingVectors(f"{one.path} has no {output} vectors. Rank by others, or embed its files again.")
    widths = {one.embeddings.dense.shape[1]: one.path for one in stored if one.embeddings.dense is not None}
    if output == "late" or not widths:
        return output, None
    if len(widths) > 1:
        said = ", ".join(f"{path} of {width}" for width, path in widths.items())
        raise MissingVectors(f"dense vectors differ in their dimensions: {said}. Embed the files of one again.")
    (width,) = widths
    return output, None if width == info.dense_width else width
