"""Slow, obvious twins of what the stand-in server and the client compute."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from periscope_client import Embeddings

Floats = NDArray[np.float32]


def expected_late(role: str, content: bytes, tokens: int) -> Floats:
    """The stand-in encoder's vectors [tokens, 4], without its padding."""
    generator = np.random.default_rng(zlib.crc32(role.encode() + b"/" + content))
    late_TK = generator.standard_normal((tokens, 4)).astype(np.float32)
    unit_TK: Floats = late_TK / np.linalg.norm(late_TK, axis=1, keepdims=True)
    return unit_TK


def expected_score(query: bytes, document: bytes, instruction: str = "") -> float:
    """The stand-in reranker's score; texts, pixels and frames are joined by "/" on both sides."""
    return zlib.crc32(b"|".join([instruction.encode(), query, document])) / 2**32


def maxsim_numpy(queries: list[Floats], documents: list[Floats]) -> Floats:
    """Sum over the query's tokens of the best dot product with a token of the document, pair by pair."""
    return np.array(
        [[sum(max(q @ d for d in document) for q in query) for document in documents] for query in queries], np.float32
    )


def embeddings(*lengths: int, fingerprint: str = "f", width: int = 4, dense: bool = True) -> Embeddings:
    """Random vectors of items with so many tokens."""
    generator = np.random.default_rng(sum(lengths))
    late = [generator.standard_normal((length, width)).astype(np.float32) for length in lengths]
    dense_ND = generator.standard_normal((len(lengths), 3)).astype(np.float32) if dense else None
    return Embeddings([*late], dense_ND, fingerprint, "recipe", [f"item {n}" for n in range(len(lengths))])


def same(left: Embeddings, right: Embeddings) -> bool:
    """Whether all vectors are equal bit by bit."""
    if (left.late is None, left.dense is None) != (right.late is None, right.dense is None):
        return False
    late = left.late is None or all(
        np.array_equal(a, b) for a, b in zip(left.late_vectors(), right.late_vectors(), strict=True)
    )
    dense = left.dense is None or right.dense is None or np.array_equal(left.dense, right.dense)
    return late and dense and left.fingerprint == right.fingerprint
