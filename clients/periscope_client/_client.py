"""The client: `AsyncRetriever`. `Retriever`, its synchronous twin, is in `_sync.py` and runs this one."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType

from periscope_client._connection import Connection
from periscope_client._contents import SINGLE_IMAGE, RerankItem
from periscope_client._contract import Output
from periscope_client._embed import OnError, embed
from periscope_client._embeddings import Embeddings, Floats
from periscope_client._endpoint import Endpoint, PathLike, Protocol, parse_endpoint
from periscope_client._errors import UnusableRetriever
from periscope_client._fork import grpc_left_alone, keep_for_ever, start_afresh
from periscope_client._info import RetrieverInfo
from periscope_client._items import ImageItem
from periscope_client._maxsim import compute_maxsim
from periscope_client._options import Options
from periscope_client._rerank import Reranking, compute_ranking
from periscope_client._similarity_maps import SimilarityMaps, compute_maps
from periscope_client._timeout import DEFAULT_TIMEOUT, Timeout
from periscope_client._transport import Transport


class AsyncRetriever:
    """A retriever on a Triton server, for `async` code. Method by method the same as `Retriever`.

    >>> async with AsyncRetriever("localhost:8001", "colqwen2") as retriever:  # doctest: +SKIP
    ...     queries = await retriever.embed_text(["revenue by region"])
    ...     pages = await retriever.embed_image(["page-1.png", "page-2.png"])
    ...     scores = await retriever.maxsim(queries, pages)

    url: "host:port" for a server in the same network; a URL for one behind a gateway, with TLS and a path if need be:
        "grpcs://host", "https://host/prefix" (port 443), "grpc://host" (8001), "http://host/prefix" (80). Where a name
        stands for several servers, "dns:///name:port" spreads requests over all of them.
    model: the retriever's name on the server, "colqwen2" for the models colqwen2_embed_text, colqwen2_embed_image...
        None for the only one that the server has; of several, UnknownModel lists the names.
    protocol: "grpc" (usually port 8001) or "http" (8000), for "host:port"; None for that of the URL, else gRPC.
    headers: sent with every request; token: sent as the header "authorization: Bearer TOKEN".
    ca: a file in PEM with the certificates of the authorities to trust instead of the usual ones; cert, key: the
        client's own certificate and its private key, in PEM likewise.
    timeout: a `Timeout`, or seconds for both of its limits.
    concurrency: how many requests may be in flight; the server joins them into batches.
    wait: seconds for which a server that is unavailable is waited for, beside `timeout`: what was in flight is kept,
        and sent again when it is back. Embedding changes nothing, so a request whose answer was lost is safe to repeat.
        None for 30 s, or `timeout.request` if that is shorter (8 s and `timeout.connect` before the server has ever
        answered); 0 for not at all. A long wait is said on the logger "periscope_client".
    retries: the most further attempts within that time; None for as many as fit.
    transport: a `Transport` in the server's place, for tests without one. `url` is then only what messages call it, and
        protocol, headers, token, ca, cert and key are left out. It is closed with the retriever.

    Nothing is sent before the first call or `async with`; then the retriever's configuration is read, and a wrong
    name fails at once. One object belongs to one event loop, and connects anew when that has ended. Close
    it, or use it as a context manager. Pickled or copied, it is its arguments, the token among them.

    Raises, in every method: ServerUnavailable, RequestTimeout, AccessDenied, UnknownModel, UnexpectedAnswer,
    FingerprintMismatch, UnusableRetriever.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        protocol: Protocol | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = None,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        timeout: Timeout | float = DEFAULT_TIMEOUT,
        concurrency: int = 16,
        wait: float | None = None,
        retries: int | None = None,
        transport: Transport | None = None,
    ) -> None:
        # For copies in other processes.
        self._settings = {name: value for name, value in dict(locals()).items() if name != "self"}
        way: Callable[[], Transport]
        if transport is None:
            endpoint = parse_endpoint(url, protocol=protocol, headers=headers, token=token, ca=ca, cert=cert, key=key)
            address, way = str(endpoint), functools.partial(open_transport, endpoint)
        else:
            _require_alone(protocol=protocol, headers=headers, token=token, ca=ca, cert=cert, key=key)
            address, way = url, lambda: transport
        if concurrency < 1 or (retries is not None and retries < 0):
            raise ValueError(f"concurrency is at least 1 and retries at least 0, not {concurrency} and {retries}")
        if wait is not None and not 0 <= wait < float("inf"):
            raise ValueError(f"wait is a number of seconds, 0 for not at all, not {wait}")
        self._concurrency = concurrency
        self._connect = functools.partial(
            Connection, address, way, model, Timeout.of(timeout), wait, retries, concurrency
        )
        self._connection = self._connect()
        self._halted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        start_afresh(self)

    async def info(self) -> RetrieverInfo:
        """The retriever's inputs and outputs, as read when the connection was opened."""
        return await self._here().info()

    async def embed_text(
        self,
        texts: Iterable[str],
        *,
        role: str | None = "query",
        instruction: str | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        outputs: Iterable[Output] | None = None,
        on_error: OnError = "raise",
        progress: bool | None = None,
        request_id: str | None = None,
    ) -> Embeddings:
        """Vectors of texts, one `Embeddings` entry a text, in order. An iterator is read only as fast as it is sent.

        role: the prompt that the recipe defines: "query", or "document" for passages; None for the server's default.
        instruction: what the prompt asks for, in the retriever's words; None for that of the task.
        task: what the vectors are for, by a name of the recipe, which says what this changes: the instruction, the
            adapter that computes them, or both. None for the recipe's default. The server refuses an unknown one with
            those that there are, and an instruction beside a task that has one of its own.
        dimensions: the width of the dense vectors, within `RetrieverInfo.dimensions`; None for their full width.
        outputs: which vectors, of "late" and "dense"; None for all that the retriever has. What is not asked for is
            neither computed nor sent.
        on_error: "raise" raises `ItemsFailed` once all items are done; "keep" returns with `Embeddings.errors` filled.
        progress: True or False to show a bar or not; None shows it after 2 s when stderr is a terminal.
        request_id: what the server is to call this call: the request of item 3 is ID/3 in its log, its traces and in
            errors.

        Raises: ItemsFailed with `on_error="raise"` (as ServerLost when the server went away); before anything is sent
        MissingVectors when the retriever does not have one of `outputs` or vectors of such `dimensions`, and
        InvalidInput when it takes no instruction or task; and what the class says.
        """
        if isinstance(texts, str | bytes):
            raise TypeError("texts is a collection of str: for a single text write embed_text([text])")
        options = Options(role, instruction, task, dimensions, request_id)
        return await self._embed("text", texts, None, options, outputs, on_error, progress)

    async def embed_image(
        self,
        images: Iterable[ImageItem | Sequence[ImageItem]],
        text: Iterable[str | None] | None = None,
        *,
        role: str | None = "document",
        instruction: str | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        outputs: Iterable[Output] | None = None,
        on_error: OnError = "raise",
        progress: bool | None = None,
        request_id: str | None = None,
    ) -> Embeddings:
        """Vectors of images, one `Embeddings` entry an image, in order.

        images: paths of PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF or (with the extra `heif`) HEIC files, bytes of such
            files, PIL images (turned as their EXIF orientation says), or pages from `pdf_pages` and `tiff_pages`, mixed
            freely. A list or a tuple of them is one item of several images, where the retriever takes those
            (`RetrieverInfo.several_images`). A file is read only when it is about to be sent, an iterator likewise, so
            a collection may be larger than memory.
        text: a text for each image, which becomes one document with it; None or "" for an image that has none.
        role, instruction, task, dimensions, outputs, on_error, progress, request_id: as for `embed_text`.

        Raises: as `embed_text`; InvalidInput also when the retriever takes no text beside images; ValueError when there
        are not as many texts as images.
        """
        _require_collection("images", "embed_image([image])", images)
        _require_collection("text", "text=[text]", text)
        options = Options(role, instruction, task, dimensions, request_id)
        return await self._embed("image", images, text, options, outputs, on_error, progress)

    async def embed_video(
        self,
        videos: Iterable[Iterable[ImageItem]],
        text: Iterable[str | None] | None = None,
        *,
        role: str | None = "document",
        instruction: str | None = None,
        task: str | None = None,
        dimensions: int | None = None,
        outputs: Iterable[Output] | None = None,
        on_error: OnError = "raise",
        progress: bool | None = None,
        request_id: str | None = None,
    ) -> Embeddings:
        """Vectors of videos, one `Embeddings` entry a video, in order.

        videos: each a collection of its frames in order, which are whatever `embed_image` takes, all of one size. The
            frames of a video are read together when it is about to be sent. Of more frames than the recipe takes, the
            server takes as many, evenly spread: send them as densely as the model's authors sampled, and no more.
        text, role, instruction, task, dimensions, outputs, on_error, progress, request_id: as for `embed_image`.

        Raises: as `embed_image`.
        """
        _require_collection("videos", "embed_video([[frame, frame]])", videos)
        _require_collection("text", "text=[text]", text)
        options = Options(role, instruction, task, dimensions, request_id)
        return await self._embed("video", videos, text, options, outputs, on_error, progress)

    async def maxsim(
        self,
        queries: Embeddings,
        documents: Embeddings,
        *,
        progress: bool | None = None,
        request_id: str | None = None,
    ) -> Floats:
        """Scores [Q, N] float32 of every query against every document, computed on the server from late vectors.

        The score is the sum over the query's tokens of the largest dot product with any of the document's tokens.
        Queries and documents are cut into requests of at most 16 MiB (unless a single pair is larger).
        request_id: as for `embed_text`, with the number of the request.

        Raises: FingerprintMismatch when the two are of different weights, MissingVectors when there are no late vectors
        or an item had failed, RequestError, and what the class says.
        """
        return await compute_maxsim(self._connection, queries, documents, self._concurrency, progress, request_id)

    async def rerank(
        self,
        query: RerankItem,
        documents: Iterable[RerankItem],
        *,
        instruction: str | None = None,
        task: str | None = None,
        top_n: int | None = None,
        progress: bool | None = None,
        request_id: str | None = None,
    ) -> Reranking:
        """Scores of documents for one query, each pair read by the model as a whole.

        query, documents: each a text, an image, or a mapping for a video or for several parts at once.
            A plain `str` is a TEXT, even one that looks like a path! An image is a `pathlib.Path`, bytes, a PIL image
            or a page from `pdf_pages`. A mapping holds "text" and "image" or "video" (a collection of frames). Image
            and frames there are what `embed_image` takes, so a str there is a path:
            `{"text": "Revenue", "image": "page-3.png"}`.
        instruction, task: as for `embed_text`.
        top_n: how many places `Reranking.order` keeps; None for all.
        progress: as for `embed_text`. request_id: likewise; a request has the number of its first document.

        Documents are read as they are needed, sent in requests of at most `RetrieverInfo.max_candidates`, and fail each
        for itself: see `Reranking.errors`.

        Raises: UnknownModel when the retriever does not rerank, InvalidInput when the query is refused or the retriever
        takes no instruction or task, RequestError when a request is lost, and what the class says.
        """
        _require_collection("documents", "rerank(query, [document])", documents)
        options = Options(instruction=instruction, task=task, request_id=request_id)
        return await compute_ranking(self._here(), query, documents, options, top_n, self._concurrency, progress)

    async def similarity_maps(self, query: str, page: ImageItem, *, request_id: str | None = None) -> SimilarityMaps:
        """For each word of a query, where on a page it finds what it looks for.

        Query and page are embedded for it, in the default roles of `embed_text` and `embed_image`.

        page: anything that `embed_image` takes.
        request_id: as for `embed_text`; the two requests are ID/query and ID/page.

        Raises: MissingVectors when the retriever has no late vectors, InvalidInput when query or page is refused,
        UnexpectedAnswer also when the repository was exported before there were maps, and what the class says.
        """
        return await compute_maps(self._here(), query, page, request_id)

    async def close(self) -> None:
        """Close the connections. Closing twice does no harm.

        Raises: UnusableRetriever on another event loop than the one that it was used on, while that one is open.
        """
        if self._loop is not None and not self._closed:
            connection = self._here()
            self._closed = True
            await connection.close()
        self._closed = True

    async def __aenter__(self) -> AsyncRetriever:
        try:
            await self._here().info()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __reduce__(self) -> tuple[Callable[[], AsyncRetriever], tuple[()]]:
        """As its settings: a copy connects by itself, wherever it is."""
        return functools.partial(type(self), **self._settings), ()

    def _forked(self) -> None:
        """Connect anew in a child: see `_fork`."""
        keep_for_ever(self._connection)
        self._connection, self._halted = self._connect(), asyncio.Event()
        self._loop = None

    def _here(self) -> Connection:
        """The connection, of the event loop that is running. Raises: UnusableRetriever."""
        if self._closed:
            raise UnusableRetriever("this retriever is closed. Make a new one.")
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None:
                if not self._loop.is_closed():
                    raise UnusableRetriever(
                        "an AsyncRetriever belongs to one event loop, and this one's is another, which is still open. "
                        "Make one in each loop, or use Retriever, which any thread may use."
                    )
                self._connection, self._halted = self._connect(), asyncio.Event()
            self._loop = loop
        return self._connection

    async def _embed(
        self,
        kind: str,
        items: Iterable[object],
        texts: Iterable[str | None] | None,
        options: Options,
        outputs: Iterable[Output] | None,
        on_error: OnError,
        progress: bool | None,
    ) -> Embeddings:
        return await embed(
            self._here(), kind, items, texts, options, outputs, on_error, self._concurrency, progress, self._halted
        )

    def _halt(self) -> None:
        """End the calls that embed: they give what has arrived. For good, and on the event loop of the object."""
        self._halted.set()


def open_transport(endpoint: Endpoint) -> Transport:
    """A transport to the server. Must be called on the event loop that will use it."""
    # Imported here: each protocol's library costs a fifth of a second, and nobody needs both.
    if endpoint.protocol == "grpc":
        with grpc_left_alone():
            from periscope_client._transport_grpc import GrpcTransport

        return GrpcTransport(endpoint)
    from periscope_client._transport_http import HttpTransport

    return HttpTransport(endpoint)


def _require_alone(**reaching: object) -> None:
    """Raises: ValueError where a transport of one's own comes with arguments that say how a server is reached."""
    if given := [name for name, value in reaching.items() if value is not None]:
        raise ValueError(f"transport takes the server's place, and {', '.join(given)} would be unused: leave them out")


def _require_collection(name: str, remedy: str, value: object) -> None:
    """Raises: TypeError for one thing where a collection belongs."""
    if isinstance(value, (*SINGLE_IMAGE, Mapping)):
        raise TypeError(f"{name} is a collection: for a single one write {remedy}")
