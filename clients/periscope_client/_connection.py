"""One retriever on one server: requests, one look at a time for a server that went away, an eye on the fingerprint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from periscope_client._description import only_retriever, read_info
from periscope_client._errors import (
    FingerprintMismatch,
    RequestError,
    ServerUnavailable,
    UnknownModel,
    UnusableRetriever,
)
from periscope_client._info import RetrieverInfo, lacking, model_names
from periscope_client._shared import Shared
from periscope_client._timeout import LONGEST_LOOK, Announcement, Patience, Timeout, call_with_retries
from periscope_client._transport import Tensors, Transport

# Even a server of toys takes longer than this to restart. So a fingerprint that was read this recently is still right.
FRESH_SECONDS = 0.25

# Seconds to wait for a sign of life from a server that has just refused a request.
PROBE_SECONDS = 5.0

# The wait for an unavailable server unless the caller says: longer than a planned restart takes if it has
# been there, and not long if nothing ever was, since the address may be wrong.
WAIT_SECONDS = 30.0
OPENING_SECONDS = 8.0


class Connection:
    """Opened by its first use, on the event loop of that use.

    address: the server's, as messages call it.
    open_transport: the way there, opened on that event loop.
    wait: seconds for which an unavailable server is waited for; None for `WAIT_SECONDS`, or `timeout.request` if that
        is shorter, and likewise for `OPENING_SECONDS` and `timeout.connect` before the first answer.
    retries: the most further attempts within that time; None for no such limit.
    """

    def __init__(
        self,
        address: str,
        open_transport: Callable[[], Transport],
        retriever: str | None,
        timeout: Timeout,
        wait: float | None,
        retries: int | None,
        slots: int,
    ) -> None:
        self.address = address
        self.retriever = retriever
        self._open_transport = open_transport
        self._timeout = timeout
        self._wait = min(WAIT_SECONDS, timeout.request) if wait is None else wait
        # A number of retries is a word of the caller's too.
        opening = WAIT_SECONDS if retries is not None else OPENING_SECONDS
        self._opening_wait = min(opening, timeout.connect) if wait is None else wait
        self._retries = retries
        self._slots = asyncio.Semaphore(slots)
        self._opening = asyncio.Lock()
        self._transport: Transport | None = None
        self._info: RetrieverInfo | None = None
        self._look = Shared[RetrieverInfo]()  # waits for a server that is away
        self._sign = Shared[RetrieverInfo]()  # asks once
        self._lost: tuple[float, ServerUnavailable] | None = None  # when a look ended in vain, and how
        self._seen: set[str] = set()  # models that have been there
        self._read_at = 0.0
        self._closed = False

    async def info(self) -> RetrieverInfo:
        """The retriever's facts, read from the server once. Raises as `read_info` and `call_with_retries` do."""
        async with self._opening:
            if self._info is None:
                announcement = Announcement(self.address)
                self._info = await call_with_retries(
                    self._read,
                    seconds=self._timeout.connect,
                    patience=Patience(self._opening_wait, self._retries, LONGEST_LOOK),
                    on_wait=announcement.waiting,
                )
                announcement.back()
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

        While the server is away the request is kept, and sent again when it is back. After a failed attempt another
        server may answer the next one. With `expected`, it must have these weights.
        """

        async def attempt() -> dict[str, NDArray[Any]]:
            try:
                tensors = await self._open().infer(model, inputs, outputs, request_id)
            except UnknownModel as error:
                if model in self._seen:
                    raise ServerUnavailable(f"{error.message}, though it was there before", error.step) from None
                raise
            self._seen.add(model)
            return tensors

        asked_at = time.monotonic()
        try:
            async with self._slots:
                if self._look.running or self._waited_in_vain(asked_at):
                    await self._back(asked_at, expected)
                return await call_with_retries(
                    attempt,
                    seconds=self._timeout.request,
                    patience=Patience(self._wait, self._retries),
                    before_retry=lambda: self._back(asked_at, expected),
                )
        except RequestError as error:
            if self._closed:
                raise UnusableRetriever("this retriever was closed before the answer came") from None
            error.request_id = request_id or None
            raise

    async def confirm(self, expected: RetrieverInfo) -> None:
        """Make sure that what was embedded since `info()` gave `expected` is of its weights, or FingerprintMismatch.

        A server that cannot be asked any more is no reason to drop vectors: it has not come back with other weights.
        """
        if self._info != expected or time.monotonic() - self._read_at > FRESH_SECONDS:
            try:
                self._compare(expected, await self._probe())
            except RequestError:
                return

    async def alive(self) -> bool:
        """Whether the server answers at all."""
        try:
            await self._sign.result(self._probe)
        except RequestError:
            return False
        return True

    async def close(self) -> None:
        """Release the connections; using them afterwards is an error."""
        self._closed = True
        self._look.cancel()
        self._sign.cancel()
        if self._transport is not None:
            await self._transport.close()

    async def _back(self, asked_at: float, expected: RetrieverInfo | None) -> None:
        """Wait until the server answers, together with all others that wait.

        Raises: ServerUnavailable when it does not in time, or did not in a time that this request has waited through;
        FingerprintMismatch.
        """
        if self._lost is not None and self._waited_in_vain(asked_at):
            raise ServerUnavailable(*self._lost[1].args)
        self._compare(expected, await self._look.result(self._look_out))

    def _waited_in_vain(self, asked_at: float) -> bool:
        return self._lost is not None and asked_at <= self._lost[0]

    async def _look_out(self) -> RetrieverInfo:
        announcement = Announcement(self.address)
        try:
            info = await call_with_retries(
                self._probe,
                seconds=float("inf"),
                patience=Patience(self._wait, self._retries, LONGEST_LOOK),
                attempts=1,  # that of the request which had to find out
                on_wait=announcement.waiting,
            )
        except ServerUnavailable as error:
            self._lost = time.monotonic(), error
            raise
        announcement.back()
        return info

    async def _probe(self) -> RetrieverInfo:
        """As `_read`, by a server that has no reason to take long. Raises: ServerUnavailable also when it does."""
        try:
            self._info = await asyncio.wait_for(self._read(), PROBE_SECONDS)
        except asyncio.TimeoutError:
            raise ServerUnavailable(
                f"the server at {self.address} does not say what it has within {PROBE_SECONDS:g} s"
            ) from None
        self._lost = None
        return self._info

    def _compare(self, expected: RetrieverInfo | None, now: RetrieverInfo) -> None:
        if expected is not None and now.fingerprint != expected.fingerprint:
            raise FingerprintMismatch(
                f"the server at {self.address} has changed the weights of {self.retriever!r}: fingerprint "
                f"{expected.fingerprint} before, {now.fingerprint} now. The vectors of this call are dropped. "
                "Call again, and embed again what is to be compared with them."
            )

    async def _read(self) -> RetrieverInfo:
        """The retriever's description. A server that starts or stops has some of its models only, which is no news."""
        asked_at = time.monotonic()
        known = self._info
        try:
            transport = self._open()
            if self.retriever is None:
                self.retriever = await only_retriever(transport, self.address)
            info = await read_info(transport, self.retriever, self.address)
        except UnknownModel as error:
            if known is None:
                raise
            raise ServerUnavailable(f"{error.message} It was there before", error.step) from None
        if known is not None and known.fingerprint == info.fingerprint and (missing := lacking(info, known)):
            raise ServerUnavailable(
                f"the server at {self.address} does not have all of {self.retriever!r} that it had before, "
                f"{', '.join(map(repr, missing))} missing"
            )
        self._read_at = asked_at
        self._seen |= set(model_names(info))
        return info

    def _open(self) -> Transport:
        if self._closed:
            raise UnusableRetriever("this retriever is closed. Make a new one.")
        if self._transport is None:
            self._transport = self._open_transport()
        return self._transport
