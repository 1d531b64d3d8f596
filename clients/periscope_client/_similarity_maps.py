"""Similarity maps: where on a page the words of a query find what they look for.

Shapes in names: T tokens of the query, S tokens of the page, K width of a vector, HW rows and columns of the page's
grid of visual tokens.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from periscope_client import _contract
from periscope_client._call import late_row, only_row
from periscope_client._connection import Connection
from periscope_client._embeddings import Floats
from periscope_client._errors import UnexpectedAnswer
from periscope_client._heat import heat_over, sheet
from periscope_client._info import choose_outputs, require_kind
from periscope_client._items import ImageItem, encode_image, encode_text, open_image
from periscope_client._options import check_request_id, part_id
from periscope_client._transport import text_tensor

Outputs = Mapping[str, NDArray[Any]]

QUERY_OUTPUTS = (*_contract.TENSORS["late"], _contract.TOKEN_SPANS)
PAGE_OUTPUTS = (*_contract.TENSORS["late"], _contract.VISUAL_GRID)


@dataclass(frozen=True, eq=False)
class SimilarityMaps:
    """The similarity of the patches of one page with each word of a query.

    words: the words of the query in order, as white space separates them.
    maps: [words, rows, columns] float32, the cosine similarity of the word with each visual token (a few patches) of
        the page, row 0 at its top. That of a word of several tokens is their mean: it stays on the scale of a cosine,
        while the largest would grow with their number.
    scores: [words] float32, the word's part of the page's score: the sum over its tokens of the best similarity with
        any token of the page, its prompt included. The rest of the score is that of the query's prompt and
        augmentation.

    >>> maps = retriever.similarity_maps("revenue by region", "page-3.png")  # doctest: +SKIP
    >>> maps.picture("page-3.png").save("why.png")  # doctest: +SKIP
    """

    words: tuple[str, ...]
    maps: Floats
    scores: Floats

    def overlay(self, image: ImageItem, word_index: int) -> Image.Image:
        """The page in its own size under the heat of one word: clear where it is coldest, dark where it is hottest.

        Coldest and hottest are of this word on this page; how much the word found is said by its score.

        image: the page, as it was given to `similarity_maps`.

        Raises: InvalidInput when it cannot be read, IndexError when there is no such word.
        """
        return heat_over(open_image(image), self.maps[word_index])

    def picture(self, image: ImageItem, font: str | os.PathLike[str] | None = None) -> Image.Image:
        """A sheet of panels: the page, then the page under the heat of each word, with the word and its score.

        image: the page, as it was given to `similarity_maps`.
        font: a TrueType or OpenType file to write the words with. Without it, DejaVu Sans or Arial if the system has
            one, else a font of Pillow's that knows ASCII and draws a box for everything else.

        Raises: InvalidInput when the image cannot be read, OSError when the font cannot.
        """
        titles = [f"{word}  {score:.2f}" for word, score in zip(self.words, self.scores, strict=True)]
        return sheet(open_image(image), list(zip(titles, self.maps, strict=True)), font)


async def compute_maps(connection: Connection, query: str, page: ImageItem, request_id: str | None) -> SimilarityMaps:
    """See `AsyncRetriever.similarity_maps`."""
    check_request_id(request_id)
    info = await connection.info()
    for kind in ("image", "text"):
        require_kind(info, kind)
    choose_outputs(info, ["late"])
    query_outputs = await connection.infer(
        _contract.EMBED_TEXT.format(retriever=info.model),
        {_contract.TEXT: text_tensor(encode_text(query, info.limits)), _contract.ROLE: text_tensor(b"query")},
        QUERY_OUTPUTS,
        info,
        part_id(request_id, "query"),
    )
    content = await asyncio.to_thread(encode_image, page, info.limits)
    page_outputs = await connection.infer(
        _contract.EMBED_IMAGE.format(retriever=info.model),
        {_contract.IMAGE: text_tensor(content), _contract.ROLE: text_tensor(b"document")},
        PAGE_OUTPUTS,
        info,
        part_id(request_id, "page"),
    )
    await connection.confirm(info)
    return make_maps(query, query_outputs, page_outputs)


def make_maps(query: str, query_outputs: Outputs, page_outputs: Outputs) -> SimilarityMaps:
    """The maps of a query over a page, from the server's answers. Raises: UnexpectedAnswer."""
    query_TK, query_real_T = late_row(query_outputs)
    page_SK, page_real_S = late_row(page_outputs)
    tokens_of = words(query, _spans(query_outputs, query_real_T))
    if not tokens_of:
        raise UnexpectedAnswer("the spans of the query's tokens leave out all of its words")
    first, rows, columns = _grid(page_outputs, page_real_S)
    similarity_TS = query_TK @ page_SK.T
    map_THW = similarity_TS[:, first : first + rows * columns].reshape(-1, rows, columns)
    best_T = similarity_TS[:, page_real_S].max(axis=1)
    return SimilarityMaps(
        words=tuple(word for word, _ in tokens_of),
        maps=np.stack([map_THW[tokens].mean(axis=0) for _, tokens in tokens_of]),
        scores=np.stack([best_T[tokens].sum() for _, tokens in tokens_of]),
    )


def words(query: str, spans_T2: NDArray[np.int32]) -> list[tuple[str, NDArray[np.intp]]]:
    """Each word of the query with the places of the tokens that span any of it; words without a token are left out.

    >>> spans_T2 = np.array([(0, 0), (0, 3), (3, 7), (7, 8), (7, 8), (8, 9), (0, 0)])
    >>> [(word, tokens.tolist()) for word, tokens in words("net profité ", spans_T2)]
    [('net', [1]), ('profité', [2, 3, 4, 5])]
    """
    begin_T, end_T = spans_T2[:, 0], spans_T2[:, 1]
    found = [
        (run.group(), np.flatnonzero((begin_T < run.end()) & (end_T > run.start())))
        for run in re.finditer(r"\S+", query)
    ]
    return [(word, tokens) for word, tokens in found if len(tokens)]


def _spans(outputs: Outputs, real_T: NDArray[np.bool_]) -> NDArray[np.int32]:
    spans_T2 = only_row(outputs, _contract.TOKEN_SPANS, 2)
    if spans_T2.shape != (len(real_T), 2):
        raise UnexpectedAnswer(f"the spans {spans_T2.shape} are not those of {len(real_T)} tokens")
    # A token without a vector, as padding is, takes no part.
    return np.where(real_T[:, None], spans_T2, 0)


def _grid(outputs: Outputs, real_S: NDArray[np.bool_]) -> tuple[int, int, int]:
    grid_3 = only_row(outputs, _contract.VISUAL_GRID, 1)
    first, rows, columns = grid_3.tolist() if grid_3.shape == (3,) else (0, 0, 0)
    end = first + rows * columns
    if min(rows, columns) < 1 or not 0 <= first < end <= len(real_S) or not real_S[first:end].all():
        raise UnexpectedAnswer(f"the grid {grid_3.tolist()} does not lie within a page of {real_S.sum()} tokens")
    return first, rows, columns
