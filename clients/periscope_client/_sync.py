"""`Retriever`: `AsyncRetriever` run on an event loop in a thread of its own, so that no logic is written twice."""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from periscope_client._client import AsyncRetriever
from periscope_client._contents import RerankItem
from periscope_client._contract import Output
from periscope_client._embed import OnError
from periscope_client._embeddings import Embeddings, Floats
from periscope_client._endpoint import PathLike, Protocol
from periscope_client._errors import UnusableRetriever
from periscope_client._fork import keep_for_ever, start_afresh
from periscope_client._info import RetrieverInfo
from periscope_client._items import ImageItem
from periscope_client._loop_thread import CLOSED, LoopThread
from periscope_client._rerank import Reranking
from periscope_client._similarity_maps import SimilarityMaps
from periscope_client._timeout import DEFAULT_TIMEOUT, Timeout
from periscope_client._transport import Transport

Result = TypeVar("Result")


class Retriever:
    """A retriever on a Triton server.

    >>> with Retriever("localhost:8001", "colqwen2") as retriever:  # doctest: +SKIP
    ...     queries = retriever.embed_text(["revenue by region"])
    ...     pages = retriever.embed_image(["page-1.png", "page-2.png"])
    ...     scores = retriever.maxsim(queries, pages)

    Arguments, results and errors are those of `AsyncRetriever`; see there. Works inside a running event loop (a
    notebook) too, and one object may be used from several threads, which then share its `concurrency`.
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
        self._async = AsyncRetriever(
            url,
            model,
            protocol=protocol,
            headers=headers,
            token=token,
            ca=ca,
            cert=cert,
            key=key,
            timeout=timeout,
            concurrency=concurrency,
            wait=wait,
            retries=retries,
            transport=transport,
        )
        self._loop: LoopThread | None = None
        self._lock = threading.RLock()
        self._closed = False
        start_afresh(self)

    def info(self) -> RetrieverInfo:
        """See `AsyncRetriever.info`."""
        return self._run(self._async.info())

    def embed_text(
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
        """See `AsyncRetriever.embed_text`."""
        return self._run(
            self._async.embed_text(
                texts,
                role=role,
                instruction=instruction,
                task=task,
                dimensions=dimensions,
                outputs=outputs,
                on_error=on_error,
                progress=progress,
                request_id=request_id,
            )
        )

    def embed_image(
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
        """See `AsyncRetriever.embed_image`."""
        return self._run(
            self._async.embed_image(
                images,
                text,
                role=role,
                instruction=instruction,
                task=task,
                dimensions=dimensions,
                outputs=outputs,
                on_error=on_error,
                progress=progress,
                request_id=request_id,
            )
        )

    def embed_video(
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
        """See `AsyncRetriever.embed_video`."""
        return self._run(
            self._async.embed_video(
                videos,
                text,
                role=role,
                instruction=instruction,
                task=task,
                dimensions=dimensions,
                outputs=outputs,
                on_error=on_error,
                progress=progress,
                request_id=request_id,
            )
        )

    def maxsim(
        self,
        queries: Embeddings,
        documents: Embeddings,
        *,
        progress: bool | None = None,
        request_id: str | None = None,
    ) -> Floats:
        """See `AsyncRetriever.maxsim`."""
        return self._run(self._async.maxsim(queries, documents, progress=progress, request_id=request_id))

    def rerank(
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
        """See `AsyncRetriever.rerank`."""
        return self._run(
            self._async.rerank(
                query,
                documents,
                instruction=instruction,
                task=task,
                top_n=top_n,
                progress=progress,
                request_id=request_id,
            )
        )

    def similarity_maps(self, query: str, page: ImageItem, *, request_id: str | None = None) -> SimilarityMaps:
        """See `AsyncRetriever.similarity_maps`."""
        return self._run(self._async.similarity_maps(query, page, request_id=request_id))

    def _halt(self) -> None:
        """See `AsyncRetriever._halt`. From any thread, and from a signal's handler."""
        with contextlib.suppress(UnusableRetriever):  # then nothing is going on
            self._started().call_soon(self._async._halt)

    def close(self) -> None:
        """Close the connections and end the thread. Closing twice does no harm.

        Calls that other threads wait for end with UnusableRetriever.
        """
        with self._lock:
            self._closed = True
        if self._loop is not None:
            self._stop()

    def __enter__(self) -> Retriever:
        try:
            self._run(self._async.info())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[[], Retriever], tuple[()]]:
        """As its settings: a copy connects by itself, wherever it is."""
        return functools.partial(type(self), **self._async._settings), ()

    def _forked(self) -> None:
        """Start a thread of its own in a child: see `_fork`."""
        if self._loop is not None:
            self._stop.detach()
            keep_for_ever(self._loop)
        self._loop = None
        self._lock = threading.RLock()  # which a thread may have held that is not here

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            loop = self._started()
        except BaseException:
            work.close()
            raise
        return loop.run(work)

    def _started(self) -> LoopThread:
        with self._lock:
            if self._closed:
                raise UnusableRetriever(CLOSED)
            if self._loop is None:
                self._loop = LoopThread()
                # Also when the object is dropped or the interpreter ends without close().
                self._stop = weakref.finalize(self, self._loop.stop, self._async)
            return self._loop
