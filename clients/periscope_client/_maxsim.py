"""Late-interaction scores on the server, cut into requests of bounded size.

Shapes in names: Q queries with T tokens, N documents with S tokens, K width of a vector; padded within a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from periscope_client import _contract
from periscope_client._embeddings import Floats

# The vectors of one request, and the Q*T*N*S similarities that the server makes of them.
REQUEST_BYTES = 16 << 20
SIMILARITY_BYTES = 256 << 20

Places = NDArray[np.intp]


class Tile(NamedTuple):
    """Which queries and which documents one request compares."""

    queries: Places
    documents: Places


def tiles(query_lengths: Sequence[int], document_lengths: Sequence[int], width: int) -> Iterator[Tile]:
    """Every query with every document exactly once, in requests within both limits where a single pair fits them."""
    token_bytes = 4 * (width + 1)  # a vector and its place in the mask
    for queries in blocks(query_lengths, REQUEST_BYTES // 4 // token_bytes):
        query_tokens = max(1, len(queries) * max(query_lengths[place] for place in queries))
        limit = min(REQUEST_BYTES * 3 // 4 // token_bytes, SIMILARITY_BYTES // 4 // query_tokens)
        for documents in blocks(document_lengths, limit):
            yield Tile(queries, documents)


def blocks(lengths: Sequence[int], limit: int) -> Iterator[Places]:
    """Places of items of similar length; a block padded to its longest item has at most `limit` tokens, or one item.

    >>> [block.tolist() for block in blocks([9, 2, 3, 9], limit=18)]
    [[1, 2], [0, 3]]
    """
    block: list[int] = []
    for place in np.argsort(lengths, kind="stable").tolist():
        # Ascending, so the newcomer is the longest and sets the padded length of all.
        if block and (len(block) + 1) * lengths[place] > limit:
            yield np.array(block)
            block = []
        block.append(place)
    if block:
        yield np.array(block)


def pad(vectors: Sequence[Floats]) -> tuple[Floats, NDArray[np.int32]]:
    """Vectors [N, S, K] with zero rows where items are shorter, and the mask [N, S] of real rows. S is at least 1."""
    longest = max(1, *map(len, vectors))
    padded_NSK = np.zeros((len(vectors), longest, vectors[0].shape[1]), np.float32)
    mask_NS = np.zeros((len(vectors), longest), np.int32)
    for row, vectors_SK in enumerate(vectors):
        padded_NSK[row, : len(vectors_SK)] = vectors_SK
        mask_NS[row, : len(vectors_SK)] = 1
    return padded_NSK, mask_NS


def request_inputs(queries: Sequence[Floats], documents: Sequence[Floats]) -> dict[str, NDArray[np.generic]]:
    """The four inputs of the scoring model for one tile."""
    query_QTK, query_mask_QT = pad(queries)
    document_NSK, document_mask_NS = pad(documents)
    return {
        _contract.QUERY_LATE: query_QTK,
        _contract.QUERY_MASK: query_mask_QT,
        _contract.DOCUMENT_LATE: document_NSK,
        _contract.DOCUMENT_MASK: document_mask_NS,
    }
