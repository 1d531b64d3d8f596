"""A repository behind a real server, as a contender, and what only a server has: a start, and neighbours.

Timed from the client: files in, vectors out, over gRPC on this machine.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from periscope_client import Embeddings, PeriscopeError, Retriever
from periscope_perf.interleaved import SideError
from periscope_perf.machine import memory_of
from periscope_perf.peers.host import Answered, Vectors
from periscope_serve.errors import ServeError
from periscope_serve.server import Server

# Seconds until a server is ready, and until a request is answered: generous, for models of the published depth.
START_TIMEOUT = 900.0
REQUEST_TIMEOUT = 600.0


class Served:
    """One repository, one server, one client. A context manager."""

    def __init__(self, name: str, repository: Path, retriever: str, log: Path) -> None:
        """Start the server and wait until it is ready. Raises `SideError`."""
        self.name = name
        self._repository = repository
        self._retriever = retriever
        self._server = Server(
            [repository], grpc_port=0, http_port=0, metrics_port=0, log=log, start_timeout=START_TIMEOUT
        )
        start = time.perf_counter()
        try:
            self._server.start()
            self.seconds_to_ready = time.perf_counter() - start
            self._client = Retriever(self._server.grpc_url, retriever, timeout=REQUEST_TIMEOUT)
        except (ServeError, PeriscopeError) as error:
            self._server.stop()
            raise SideError(f"{name}: {error}") from None

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server."""
        self._client.close()
        self._server.stop()

    def pages(self, files: Sequence[Path]) -> Answered:
        """Embed pages, many in flight. Raises `SideError`."""
        start = time.perf_counter()
        try:
            found = self._client.embed_image(files, progress=False)
        except PeriscopeError as error:
            raise SideError(f"{self.name}: {error}") from None
        return Answered(time.perf_counter() - start, _vectors(found))

    def queries(self, texts: Sequence[str]) -> Answered:
        """Embed queries one after the other. Raises `SideError`."""
        start = time.perf_counter()
        try:
            found = [self._client.embed_text([text], progress=False) for text in texts]
        except PeriscopeError as error:
            raise SideError(f"{self.name}: {error}") from None
        return Answered(time.perf_counter() - start, [vectors for one in found for vectors in _vectors(one)])

    def query_while_indexing(self, files: Sequence[Path], texts: Sequence[str]) -> float:
        """Median seconds of a query, one after the other, while another client indexes pages. Raises `SideError`."""
        stop, begun = threading.Event(), threading.Event()
        failures: list[PeriscopeError] = []

        def index() -> None:
            try:
                with Retriever(self._server.grpc_url, self._retriever, timeout=REQUEST_TIMEOUT) as indexer:
                    while not stop.is_set():
                        begun.set()
                        indexer.embed_image(files, progress=False)
            except PeriscopeError as error:
                failures.append(error)
                begun.set()

        thread = threading.Thread(target=index, name="indexing")
        thread.start()
        try:
            begun.wait()
            # Until its pages are prepared and wait for the graphs, the machine is as good as idle.
            time.sleep(0.5)
            median = statistics.median(self.queries([text]).seconds for text in texts)
        finally:
            stop.set()
            thread.join()
        if failures:
            raise SideError(f"{self.name}, indexing: {failures[0]}")
        return median

    def memory(self) -> int:
        """Bytes that the server and all its processes hold now; what they share counts once."""
        return memory_of(self._server.pid)

    def weights(self) -> int:
        """Bytes of the weights of its graphs, as they are stored: external data of ONNX, and OpenVINO's files."""
        files = (file for kind in ("*.data", "*.bin") for file in self._repository.rglob(kind))
        return sum(file.stat().st_size for file in files)


def seconds_to_ready(repository: Path, retriever: str, log: Path) -> float:
    """Start a server on a repository, and stop it. Raises `SideError`."""
    with Served("start", repository, retriever, log) as served:
        return served.seconds_to_ready


def _vectors(found: Embeddings) -> Vectors:
    if found.late is not None:
        return found.late_vectors()
    return [dense_D[None] for dense_D in found.dense_vectors()]
