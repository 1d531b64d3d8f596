"""Vectors of several items, with the fingerprint of the weights that made them.

Shapes in names: N items, T real tokens of one item, K width of a late vector, D width of a dense vector.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from periscope_client import _vector_file
from periscope_client._errors import FingerprintMismatch, ItemError, MissingVectors, RequestError, UnexpectedAnswer
from periscope_client._finite import NOT_FINITE, infinite_items
from periscope_client._log import logger

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of N items, in the order in which the items were given. Immutable, like the arrays should be.

    late: a list of N arrays [T, K] float32, one row a real token, T differing between items; None where an item failed.
        None altogether when there are no late vectors: the retriever has none, or they were not asked for.
    dense: [N, D] float32, a row of NaN where an item failed. None when there are no dense vectors. D is the retriever's
        full width, or the `dimensions` that were asked for.
    fingerprint: of weights, recipe and precision. Vectors of different fingerprints are not comparable.
    recipe: name of the recipe.
    names: what each item was: its path, "PATH, page NUMBER", or the text itself.
    errors: the failed items by their place; only with `on_error="keep"` or in `ItemsFailed.embeddings`.

    >>> import numpy as np
    >>> both = Embeddings(late=[np.ones((3, 2), np.float32), np.ones((5, 2), np.float32)], dense=None,
    ...                   fingerprint="f", recipe="r", names=["a.png", "b.png"])
    >>> len(both), both[1].names, [late_TK.shape for late_TK in both[::-1].late]
    (2, ['b.png'], [(5, 2), (3, 2)])
    """

    late: list[Floats | None] | None
    dense: Floats | None
    fingerprint: str
    recipe: str
    names: list[str]
    errors: Mapping[int, ItemError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for vectors in (self.late, self.dense):
            if vectors is not None and len(vectors) != len(self.names):
                raise ValueError(f"{len(vectors)} vectors for {len(self.names)} items")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Embeddings]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[np.int64]) -> Embeddings:
        """Some of the items, always as Embeddings: `e[3]` has length 1, `e[2:5]` 3, `e[[7, 0]]` 2 in that order."""
        places = np.arange(len(self))[index].reshape(-1).tolist()
        return Embeddings(
            late=None if self.late is None else [self.late[place] for place in places],
            dense=None if self.dense is None else self.dense[places],
            fingerprint=self.fingerprint,
            recipe=self.recipe,
            names=[self.names[place] for place in places],
            errors={new: self.errors[old].at(new) for new, old in enumerate(places) if old in self.errors},
        )

    def without_failed(self) -> Embeddings:
        """Only the items that have vectors. Their places change; their names do not."""
        return self[[place for place in range(len(self)) if place not in self.errors]]

    def late_vectors(self) -> list[Floats]:
        """`late`, certain to be complete. Raises: MissingVectors."""
        if self.late is None:
            raise MissingVectors(
                f"there are no late vectors here (recipe {self.recipe!r}). Embed with outputs=['late'] if the "
                "retriever has them, or compare the dense ones: q.dense_vectors() @ d.dense_vectors().T"
            )
        self._require_all()
        self._require_finite()
        return [late_TK for late_TK in self.late if late_TK is not None]

    def dense_vectors(self) -> Floats:
        """`dense` [N, D], certain to be there and complete. Raises: MissingVectors."""
        if self.dense is None:
            raise MissingVectors(
                f"there are no dense vectors here (recipe {self.recipe!r}). Embed with outputs=['dense'] if the "
                "retriever has them, or compare the late ones: retriever.maxsim(q, d)"
            )
        self._require_all()
        self._require_finite()
        return self.dense

    @staticmethod
    def concat(parts: Sequence[Embeddings]) -> Embeddings:
        """The items of all parts, in order.

        Raises: FingerprintMismatch, MissingVectors when a part lacks vectors that another has, and ValueError when
        there are no parts or their dense vectors differ in width.
        """
        if not parts:
            raise ValueError("nothing to concatenate: give at least one Embeddings")
        first = parts[0]
        for part in parts[1:]:
            check_comparable(first, part)
            for name in ("late", "dense"):
                if (getattr(part, name) is None) != (getattr(first, name) is None):
                    raise MissingVectors(f"not all parts have {name} vectors. Embed all of them with the same outputs")
        starts = np.cumsum([0, *map(len, parts)]).tolist()
        return Embeddings(
            late=None if first.late is None else [late_TK for part in parts for late_TK in part.late or ()],
            dense=None
            if first.dense is None
            else np.concatenate([part.dense for part in parts if part.dense is not None]),
            fingerprint=first.fingerprint,
            recipe=first.recipe,
            names=[name for part in parts for name in part.names],
            errors={
                start + place: error.at(start + place)
                for start, part in zip(starts, parts, strict=False)
                for place, error in part.errors.items()
            },
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one `.npz` file, without pickle; an existing file is replaced at once or not at all.

        Arrays in it: `late` [all tokens, K] with `late_offsets` int64 [N + 1] (item i has the rows from offset i to
        offset i + 1), `dense` [N, D], and the strings `fingerprint`, `recipe`, `names`.

        Raises: MissingVectors when an item failed (save `without_failed()`), OSError.
        """
        _vector_file.write(path, self._arrays())

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays in the file. Raises: MissingVectors."""
        self._require_all()
        self._require_finite()
        arrays: dict[str, NDArray[np.generic]] = {
            "fingerprint": np.array(self.fingerprint),
            "recipe": np.array(self.recipe),
            "names": np.array(self.names, dtype=np.str_),
        }
        if self.late is not None:
            arrays |= _vector_file.flatten(self.late_vectors())
        if self.dense is not None:
            arrays["dense"] = self.dense
        return arrays

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embeddings:
        """A file of `save` or `periscope embed`; an item whose vectors are not finite has none, and is in `errors`.

        That the run which wrote it could not finish is said on the logger "periscope_client".

        Raises: VectorFileError, and OSError when there is no such file.
        """
        arrays = _vector_file.read(path)
        if missing := _vector_file.unfinished(arrays):
            logger.warning("%s is incomplete: %s", os.fspath(path), missing)
        return cls._of(arrays, path)

    @classmethod
    def _of(cls, arrays: Mapping[str, NDArray[Any]], path: str | os.PathLike[str]) -> Embeddings:
        loaded = cls(
            late=_vector_file.unflatten(arrays),
            dense=arrays.get("dense"),
            fingerprint=str(arrays["fingerprint"]),
            recipe=str(arrays["recipe"]),
            names=arrays["names"].tolist(),
        )
        cause = UnexpectedAnswer(f"its vectors in {os.fspath(path)} {NOT_FINITE}. Embed it again.")
        return loaded._without(loaded._infinite, cause)

    def _without(self, places: Sequence[int], cause: RequestError) -> Embeddings:
        """The same, but some items failed for that cause."""
        if not places:
            return self
        late, dense = self.late, self.dense
        if late is not None:
            late = [None if place in places else late_TK for place, late_TK in enumerate(late)]
        if dense is not None:
            dense = dense.copy()
            dense[places] = np.nan
        errors = {place: ItemError(place, self.names[place], cause) for place in places}
        return replace(self, late=late, dense=dense, errors={**self.errors, **errors})

    @functools.cached_property
    def _infinite(self) -> list[int]:
        # Looked for once: the arrays do not change, and what asks for them does so for every query.
        return [place for place in infinite_items(self.late, self.dense) if place not in self.errors]

    def _require_finite(self) -> None:
        if self._infinite:
            first = self._infinite[0]
            raise MissingVectors(
                f"vectors of {len(self._infinite)} of {len(self)} items {NOT_FINITE}, the first those of item {first} "
                f"({self.names[first]}), and compare with nothing. Embed these items again."
            )

    def _require_all(self) -> None:
        if self.errors:
            raise MissingVectors(
                f"{len(self.errors)} of {len(self)} items failed and have no vectors "
                f"(the first: {self.errors[min(self.errors)]}). Go on with embeddings.without_failed()."
            )


def check_fingerprints(left: Embeddings, right: Embeddings) -> None:
    """Raises: FingerprintMismatch unless both were made by the same weights, recipe and precision."""
    if left.fingerprint != right.fingerprint:
        raise FingerprintMismatch(
            f"vectors of {left.recipe!r} (fingerprint {left.fingerprint}) and of {right.recipe!r} (fingerprint "
            f"{right.fingerprint}) are not comparable. Embed one side again with the other's retriever."
        )


def check_comparable(left: Embeddings, right: Embeddings) -> None:
    """Raises: as `check_fingerprints`, and ValueError when dense vectors were asked for in different widths."""
    check_fingerprints(left, right)
    if left.dense is not None and right.dense is not None and left.dense.shape[1] != right.dense.shape[1]:
        raise ValueError(
            f"dense vectors of {left.dense.shape[1]} and of {right.dense.shape[1]} dimensions are not comparable. "
            "Embed one side again with the other's `dimensions`."
        )
