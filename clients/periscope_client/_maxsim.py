"""Late-interaction scores on the server, cut into requests of bounded size.

Shapes in names: Q queries with T tokens, N documents with S tokens, K width of a vector; padded within a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from periscope_client import _contract
from periscope_client._connection import Connection
from periscope_client._embeddings import Embeddings, Floats, check_fingerprints
from periscope_client._errors import UnexpectedAnswer
from periscope_client._flight import Source, fly
from periscope_client._options import check_request_id, part_id
from periscope_client._progress import progress_bar

# Blocks of scores are large and the server computes one after the other: a few in flight keep it busy.
SCORE_REQUESTS = 4

# The vectors of one request, and the Q*T*N*S similarities that the server makes of them.
REQUEST_BYTES = 16 << 20
SIMILARITY_BYTES = 256 << 20

Places = NDArray[np.intp]


class Tile(NamedTuple):
    """The queries and the documents that one request compares."""

    queries: Places
    documents: Places


async def compute_maxsim(
    connection: Connection,
    queries: Embeddings,
    documents: Embeddings,
    concurrency: int,
    progress: bool | None,
    request_id: str | None,
) -> Floats:
    """See `AsyncRetriever.maxsim`."""
    check_request_id(request_id)
    check_fingerprints(queries, documents)
    query_late, document_late = queries.late_vectors(), documents.late_vectors()
    scores_QN = np.zeros((len(query_late), len(document_late)), np.float32)
    if not scores_QN.size:
        return scores_QN
    info = await connection.info()
    model = _contract.MAXSIM.format(retriever=info.model)
    lengths_N = np.array([len(late) for late in document_late])
    widths = {vectors.shape[1] for vectors in (*query_late, *document_late)}
    if len(widths) > 1:
        raise ValueError(f"late vectors of one fingerprint have one width, not {sorted(widths)}")

    async def score(index: int, tile: Tile) -> None:
        inputs = request_inputs(
            [query_late[place] for place in tile.queries], [document_late[place] for place in tile.documents]
        )
        scored = await connection.infer(model, inputs, [_contract.SCORE], request_id=part_id(request_id, index))
        tile_QN = scored.get(_contract.SCORE)
        expected = (len(tile.queries), len(tile.documents))
        if tile_QN is None or tile_QN.shape != expected:
            raise UnexpectedAnswer(f"the model {model!r} did not answer with {expected} scores")
        # A document without vectors has no similarity at all: its score is minus infinity, and last.
        wrong_QN = ~np.isfinite(tile_QN) & (lengths_N[tile.documents] > 0)
        if wrong_QN.any():
            query, document = np.argwhere(wrong_QN)[0]
            names = f"{queries.names[tile.queries[query]]!r} and {documents.names[tile.documents[document]]!r}"
            raise UnexpectedAnswer(f"the model {model!r} gave no score, but {tile_QN[query, document]}, of {names}")
        scores_QN[np.ix_(tile.queries, tile.documents)] = tile_QN
        bar.update(tile_QN.size)

    cut = list(tiles([len(late) for late in query_late], [len(late) for late in document_late], widths.pop()))
    with progress_bar(scores_QN.size, "pair", progress) as bar:
        await fly(Source(cut), score, concurrency=min(SCORE_REQUESTS, concurrency))
    return scores_QN


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
