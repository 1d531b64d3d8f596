"""The client: `AsyncRetriever`. `Retriever`, its synchronous twin, is in `_sync.py` and runs this one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image

from periscope_client import _contract
from periscope_client._call import Call
from periscope_client._connection import Connection
from periscope_client._contract import Output
from periscope_client._embeddings import Embeddings, Floats, check_fingerprints
from periscope_client._errors import ItemsFailed, ServerLost, UnexpectedAnswer, UnknownModel
from periscope_client._flight import Source, fly
from periscope_client._info import RetrieverInfo, choose_outputs
from periscope_client._items import ImageItem, encode_image, encode_text, item_name, shorten
from periscope_client._maxsim import Tile, request_inputs, tiles
from periscope_client._progress import progress_bar
from periscope_client._similarity_maps import PAGE_OUTPUTS, QUERY_OUTPUTS, SimilarityMaps, make_maps
from periscope_client._timeout import DEFAULT_TIMEOUT, Timeout
from periscope_client._transport import text_tensor

Protocol: TypeAlias = Literal["grpc", "http"]
OnError: TypeAlias = Literal["raise", "keep"]

# Blocks of scores are large and the server computes one after the other: a few in flight keep it busy.
SCORE_REQUESTS = 4


class AsyncRetriever:
    """A retriever on a Triton server, for `async` code. Method by method the same as `Retriever`.

    >>> async with AsyncRetriever("localhost:8001", "colqwen2") as retriever:  # doctest: +SKIP
    ...     queries = await retriever.embed_text(["revenue by region"])
    ...     pages = await retriever.embed_image(["page-1.png", "page-2.png"])
    ...     scores = await retriever.maxsim(queries, pages)

    url: "host:port", without a scheme.
    model: the retriever's name on the server, "colqwen2" for the models colqwen2_embed_text, colqwen2_embed_image...
    protocol: "grpc" (usually port 8001) or "http" (8000).
    timeout: a `Timeout`, or seconds for both of its limits.
    concurrency: how many requests may be in flight; the server joins them into batches.
    retries: how often a request is tried again when the server is unavailable, with growing pauses (8 s in all by
        default). Embedding has no side effects, so a request whose answer was lost is safe to repeat.

    Nothing is sent before the first call or `async with`; then the retriever's configuration is read, and a wrong
    address or name fails at once. One object belongs to one event loop. Close it, or use it as a context manager.

    Raises, in every method: ServerUnavailable, RequestTimeout, UnknownModel, UnexpectedAnswer, FingerprintMismatch.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        protocol: Protocol = "grpc",
        timeout: Timeout | float = DEFAULT_TIMEOUT,
        concurrency: int = 16,
        retries: int = 5,
    ) -> None:
        if protocol not in ("grpc", "http"):
            raise ValueError(f"protocol is 'grpc' or 'http', not {protocol!r}")
        if "://" in url or ":" not in url:
            raise ValueError(f"url is 'host:port' without a scheme, not {url!r}")
        if concurrency < 1 or retries < 0:
            raise ValueError(f"concurrency is at least 1 and retries at least 0, not {concurrency} and {retries}")
        self._concurrency = concurrency
        self._connection = Connection(url, model, protocol, Timeout.of(timeout), retries, concurrency)

    async def info(self) -> RetrieverInfo:
        """Fingerprint, recipe, vector widths and accepted inputs, as read when the connection was opened."""
        return await self._connection.info()

    async def embed_text(
        self,
        texts: Iterable[str],
        *,
        role: str | None = "query",
        outputs: Iterable[Output] | None = None,
        on_error: OnError = "raise",
        progress: bool | None = None,
    ) -> Embeddings:
        """Vectors of texts, one `Embeddings` entry a text, in order. An iterator is read only as fast as it is sent.

        role: the prompt that the recipe defines: "query", or "document" for passages; None for the server's default.
        outputs: which vectors, of "late" and "dense"; None for all that the retriever has. What is not asked for is
            neither computed nor sent.
        on_error: "raise" raises `ItemsFailed` once all items are done; "keep" returns with `Embeddings.errors` filled.
        progress: True or False to show a bar or not; None shows it after 2 s when stderr is a terminal.

        Raises: ItemsFailed with `on_error="raise"` (as ServerLost when the server went away), MissingVectors when the
        retriever does not have one of `outputs`, and what the class says.
        """
        if isinstance(texts, str | bytes):
            raise TypeError("texts is a collection of str: for a single text write embed_text([text])")

        async def encode(item: object) -> bytes:
            return encode_text(item)

        def describe(item: object) -> tuple[str, str]:
            return (item, repr(shorten(item))) if isinstance(item, str) else (item_name(item),) * 2

        return await self._embed("text", texts, role, outputs, encode, describe, on_error, progress)

    async def embed_image(
        self,
        images: Iterable[ImageItem],
        *,
        role: str | None = "document",
        outputs: Iterable[Output] | None = None,
        on_error: OnError = "raise",
        progress: bool | None = None,
    ) -> Embeddings:
        """Vectors of images, one `Embeddings` entry an image, in order.

        images: paths of PNG, JPEG, WebP, GIF or TIFF files, bytes of such files, PIL images (sent as PNG, turned as
            their EXIF orientation says), or pages from `pdf_pages`, mixed freely. A file is read only when it is about
            to be sent, an iterator likewise, so a collection may be larger than memory.
        role, outputs, on_error, progress: as for `embed_text`.

        Raises: as `embed_text`.
        """
        if isinstance(images, str | bytes | os.PathLike | Image.Image):
            raise TypeError("images is a collection: for a single image write embed_image([image])")

        async def encode(item: object) -> bytes:
            return await asyncio.to_thread(encode_image, item)

        def describe(item: object) -> tuple[str, str]:
            return (item_name(item),) * 2

        return await self._embed("image", images, role, outputs, encode, describe, on_error, progress)

    async def maxsim(self, queries: Embeddings, documents: Embeddings, *, progress: bool | None = None) -> Floats:
        """Scores [Q, N] float32 of every query against every document, computed on the server from late vectors.

        The score is the sum over the query's tokens of the largest dot product with any of the document's tokens.
        Queries and documents are cut into requests of at most 16 MiB (unless a single pair is larger).

        Raises: FingerprintMismatch when the two are of different weights, MissingVectors when there are no late vectors
        or an item had failed, RequestError, and what the class says.
        """
        check_fingerprints(queries, documents)
        query_late, document_late = queries.late_vectors(), documents.late_vectors()
        scores_QN = np.zeros((len(query_late), len(document_late)), np.float32)
        if not scores_QN.size:
            return scores_QN
        info = await self._connection.info()
        model = _contract.MAXSIM.format(retriever=info.model)
        widths = {vectors.shape[1] for vectors in (*query_late, *document_late)}
        if len(widths) > 1:
            raise ValueError(f"late vectors of one fingerprint have one width, not {sorted(widths)}")

        async def score(index: int, tile: Tile) -> None:
            inputs = request_inputs(
                [query_late[place] for place in tile.queries], [document_late[place] for place in tile.documents]
            )
            scored = await self._connection.infer(model, inputs, [_contract.SCORE])
            tile_QN = scored.get(_contract.SCORE)
            expected = (len(tile.queries), len(tile.documents))
            if tile_QN is None or tile_QN.shape != expected:
                raise UnexpectedAnswer(f"the model {model!r} did not answer with {expected} scores")
            scores_QN[np.ix_(tile.queries, tile.documents)] = tile_QN
            bar.update(tile_QN.size)

        cut = list(tiles([len(late) for late in query_late], [len(late) for late in document_late], widths.pop()))
        with progress_bar(scores_QN.size, "pair", progress) as bar:
            await fly(Source(cut), score, concurrency=min(SCORE_REQUESTS, self._concurrency))
        return scores_QN

    async def similarity_maps(self, query: str, page: ImageItem) -> SimilarityMaps:
        """For each word of a query, where on a page it finds what it looks for.

        Query and page are embedded for it, in the default roles of `embed_text` and `embed_image`.

        page: anything that `embed_image` takes.

        Raises: MissingVectors when the retriever has no late vectors, InvalidInput when query or page is refused,
        UnexpectedAnswer also when the repository was exported before there were maps, and what the class says.
        """
        info = await self._connection.info()
        choose_outputs(info, ["late"])
        _require_kind(info, "image")
        _require_kind(info, "text")
        query_outputs = await self._connection.infer(
            _contract.EMBED_TEXT.format(retriever=info.model),
            {_contract.TEXT: text_tensor(encode_text(query)), _contract.ROLE: text_tensor(b"query")},
            QUERY_OUTPUTS,
            info,
        )
        content = await asyncio.to_thread(encode_image, page)
        page_outputs = await self._connection.infer(
            _contract.EMBED_IMAGE.format(retriever=info.model),
            {_contract.IMAGE: text_tensor(content), _contract.ROLE: text_tensor(b"document")},
            PAGE_OUTPUTS,
            info,
        )
        await self._connection.confirm(info)
        return make_maps(query, query_outputs, page_outputs)

    async def close(self) -> None:
        """Close the connections. Closing twice does no harm."""
        await self._connection.close()

    async def __aenter__(self) -> AsyncRetriever:
        try:
            await self._connection.info()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _embed(
        self,
        kind: str,
        items: Iterable[object],
        role: str | None,
        outputs: Iterable[Output] | None,
        encode: Callable[[object], Awaitable[bytes]],
        describe: Callable[[object], tuple[str, str]],
        on_error: OnError,
        progress: bool | None,
    ) -> Embeddings:
        if on_error not in ("raise", "keep"):
            raise ValueError(f"on_error is 'raise' or 'keep', not {on_error!r}")
        info = await self._connection.info()
        _require_kind(info, kind)
        call = Call(self._connection, info, kind, role, choose_outputs(info, outputs), encode, describe)
        source = Source(items)
        with progress_bar(source.total, kind, progress) as bar:

            async def handle(index: int, item: object) -> None:
                await call.handle(index, item)
                bar.update()
                if call.lost is not None:
                    source.stop()

            await fly(source, handle, concurrency=self._concurrency)
        await self._connection.confirm(info)
        embeddings = call.embeddings()
        if call.errors and on_error == "raise":
            raise (ItemsFailed if call.lost is None else ServerLost)(call.errors, embeddings)
        return embeddings


def _require_kind(info: RetrieverInfo, kind: str) -> None:
    """Raises: UnknownModel unless the retriever embeds texts, or images."""
    if kind not in info.accepts:
        raise UnknownModel(f"the retriever {info.model!r} does not embed {kind}s, only {info.accepts[0]}s")
