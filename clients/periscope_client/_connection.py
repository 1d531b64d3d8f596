"""One retriever on one server: requests with retries, and an eye on the fingerprint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from periscope_client._description import only_retriever, read_info
from periscope_client._endpoint import Endpoint
from periscope_client._errors import FingerprintMismatch, RequestError
from periscope_client._info import RetrieverInfo
from periscope_client._timeout import Timeout, call_with_retries
from periscope_client._transport import Tensors, Transport, open_transport

# Even a server of toys takes longer than this to restart. So a fingerprint that was read this recently is still right.
FRESH_SECONDS = 0.25

# How long to wait for a sign of life from a server that has just refused a request several times.
PROBE_SECONDS = 5.0


class Connection:
    """Opened by its first use, on the event loop of that use."""

    def __init__(self, endpoint: Endpoint, retriever: str | None, timeout: Timeout, retries: int, slots: int) -> None:
        self.address = str(endpoint)
        self.retriever = retriever
        self._endpoint = endpoint
        self._timeout = timeout
        self._retries = retries
        self._slots = asyncio.Semaphore(slots)
        self._opening = asyncio.Lock()
        self._transport: Transport | None = None
        self._info: RetrieverInfo | None = None
        self._read_at = 0.0
        self._closed = False

    async def info(self) -> RetrieverInfo:
        """The retriever's facts, read from the server once. Raises as `read_info` and `call_with_retries` do."""
        async with self._opening:
            if self._info is None:
                self._info = await call_with_retries(self._read, seconds=self._timeout.connect, retries=self._retries)
            return self._info

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        outputs: Sequence[str],
        expected: RetrieverInfo | None = None,
        request_id: str = "",
    ) -> dict[str, NDArray[Any]]:
        """The `outputs` of one request, sent when a slot is free.

        After a failed attempt another server may answer the next one. With `expected`, it must have these weights.
        """
        transport = self._open()
        try:
            async with self._slots:
                return await call_with_retries(
                    lambda: transport.infer(model, inputs, outputs, request_id),
                    seconds=self._timeout.request,
                    retries=self._retries,
                    before_retry=None if expected is None else lambda: self._recheck(expected),
                )
        except RequestError as error:
            error.request_id = request_id or None
            raise

    async def confirm(self, expected: RetrieverInfo) -> None:
        """Make sure that what was embedded since `info()` gave `expected` is of its weights, or FingerprintMismatch.

        A server that cannot be asked any more is no reason to drop vectors: it has not come back with other weights.
        """
        if self._info != expected or time.monotonic() - self._read_at > FRESH_SECONDS:
            try:
                await asyncio.wait_for(self._recheck(expected), PROBE_SECONDS)
            except (RequestError, asyncio.TimeoutError):
                return

    async def alive(self) -> bool:
        """Whether the server answers at all."""
        try:
            await asyncio.wait_for(self._read(), PROBE_SECONDS)
        except (RequestError, asyncio.TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Release the connections; using them afterwards is an error."""
        self._closed = True
        if self._transport is not None:
            await self._transport.close()

    async def _recheck(self, expected: RetrieverInfo) -> None:
        self._info = now = await self._read()
        if now.fingerprint != expected.fingerprint:
            raise FingerprintMismatch(
                f"the server at {self.address} has changed the weights of {self.retriever!r}: fingerprint "
                f"{expected.fingerprint} before, {now.fingerprint} now. The vectors of this call are dropped. "
                "Call again, and embed again what is to be compared with them."
            )

    async def _read(self) -> RetrieverInfo:
        asked_at = time.monotonic()
        transport = self._open()
        if self.retriever is None:
            self.retriever = await only_retriever(transport, self.address)
        info = await read_info(transport, self.retriever, self.address)
        self._read_at = asked_at
        return info

    def _open(self) -> Transport:
        if self._closed:
            raise RuntimeError("this retriever is closed. Make a new one.")
        if self._transport is None:
            self._transport = open_transport(self._endpoint)
        return self._transport
