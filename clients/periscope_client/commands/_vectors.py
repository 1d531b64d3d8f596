"""The file that `periscope embed` writes: what it holds, how that was made, what is missing, and going on with it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from periscope_client import _vector_file
from periscope_client._embeddings import Embeddings
from periscope_client._errors import FingerprintMismatch, InvalidInput, VectorFileError
from periscope_client._info import RetrieverInfo
from periscope_client._items import item_name, shorten

Item = TypeVar("Item")

ZIP = b"PK\3\4"


def made_of(path: Path) -> str | None:
    """The origin of the vectors in a sound file, "texts" or "files"; None where `periscope embed` did not write it."""
    with np.load(path, allow_pickle=False) as arrays:
        kind: str | None = json.loads(str(arrays["options"]))["kind"] if "options" in arrays else None
    return kind


class VectorsFile:
    """A file to be written, and what an earlier run left in it.

    options: how items are prepared; vectors that were made in another way do not belong in one file.
    resume: whether to go on with what is there. Without it a file of vectors is replaced, unless it is unfinished.

    Raises: VectorFileError, OSError.
    """

    def __init__(self, path: Path, options: Mapping[str, object], resume: bool) -> None:
        self._path = path
        self._options = dict(options)
        self._held = self._read(resume)
        self._places: dict[str, list[int]] = defaultdict(list)  # of held items by their names, those not met yet
        for place, name in enumerate(self._held.names if self._held is not None else ()):
            self._places[name].append(place)
        self._order: list[int | None] = []  # of the items met: the place of a held one, None for another

    def __len__(self) -> int:
        return 0 if self._held is None else len(self._held)

    def require_comparable(self, info: RetrieverInfo) -> None:
        """Raises: FingerprintMismatch unless what is held is of the weights that are served."""
        if self._held is not None and self._held.fingerprint != info.fingerprint:
            raise FingerprintMismatch(
                f"{self._path} holds vectors of {self._held.recipe!r} (fingerprint {self._held.fingerprint}), the "
                f"retriever {info.model!r} gives those of {info.recipe!r} (fingerprint {info.fingerprint}). Go on with "
                "the retriever that they are of, or embed everything again, into another file."
            )

    def missing(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items that are not held, by their names."""
        for item in items:
            places = self._places.get(item_name(item) if not isinstance(item, str) else item)
            self._order.append(places.pop(0) if places else None)
            if self._order[-1] is None:
                yield item

    def save(self, embedded: Embeddings) -> Embeddings:
        """Write what is held and what was embedded of `missing`, in the order of the items, and what failed.

        Gives all that is in the file, nothing when nothing is. Raises: OSError, MissingVectors.
        """
        everything = self._joined(embedded)
        if len(everything):
            arrays = {**everything._arrays(), **self._record(embedded)}
            _vector_file.write(self._path, arrays)
        return everything

    def _joined(self, embedded: Embeddings) -> Embeddings:
        whole = embedded.without_failed()
        if self._held is None:
            return whole
        numbers = iter(range(len(embedded)))
        whole_at = {
            place: rank for rank, place in enumerate(p for p in range(len(embedded)) if p not in embedded.errors)
        }
        order = []
        for place in self._order:
            if place is not None:
                order.append(place)
            elif (number := next(numbers, None)) in whole_at:
                order.append(len(self._held) + whole_at[number])
        # Items that the command did not come to, or does not name any more, are kept.
        order += [place for places in self._places.values() for place in places]
        return Embeddings.concat([self._held, whole])[order]

    def _record(self, embedded: Embeddings) -> dict[str, Any]:
        record: dict[str, Any] = {"options": np.array(json.dumps(self._options, sort_keys=True))}
        if embedded.errors:
            causes = [error.cause for error in embedded.errors.values()]
            record["failed"] = np.array([embedded.names[place] for place in embedded.errors], dtype=np.str_)
            record["reasons"] = np.array([cause.reason for cause in causes], dtype=np.str_)
            # A refused item would be refused again.
            record["retry"] = np.array([not isinstance(cause, InvalidInput) for cause in causes])
        return record

    def _read(self, resume: bool) -> Embeddings | None:
        if not self._path.exists():
            return None
        try:
            arrays = _vector_file.read(self._path)
        except VectorFileError:
            if resume:
                raise
            # A file of vectors that is broken may go, a document that was named by mistake may not.
            with self._path.open("rb") as file:
                start = file.read(len(ZIP))
            if start not in (ZIP, b""):
                raise VectorFileError(
                    f"{self._path} is there, and no file of vectors: it is not replaced. Name another file"
                ) from None
            return None
        if not resume:
            if lacks := _vector_file.unfinished(arrays):
                raise VectorFileError(
                    f"{self._path} is incomplete: {lacks}. Go on with --resume, or remove it to begin again"
                )
            return None
        if "options" not in arrays:
            raise VectorFileError(
                f"{self._path} does not say how its vectors were made, which `periscope embed` of this version does. "
                "Embed everything again, into another file"
            )
        self._require_same(json.loads(str(arrays["options"])))
        return Embeddings._of(arrays, self._path).without_failed()

    def _require_same(self, before: Mapping[str, object]) -> None:
        for name in sorted({*before, *self._options}):
            was, now = before.get(name), self._options.get(name)
            if was != now:
                raise VectorFileError(
                    f"{self._path} was made with another {name}: {_said(was)} before, {_said(now)} now. Use the same, "
                    "or another file"
                )


def _said(value: object) -> str:
    return "none" if value is None else repr(shorten(value) if isinstance(value, str) else value)
