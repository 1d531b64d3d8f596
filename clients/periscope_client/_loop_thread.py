"""An event loop in a thread of its own, on which a `Retriever` runs its `AsyncRetriever`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from periscope_client._client import AsyncRetriever
from periscope_client._errors import UnusableRetriever

Result = TypeVar("Result")

CLOSED = "this retriever is closed. Make a new one."


class LoopThread:
    """An event loop that runs in a daemon thread until it is stopped.

    Raises: UnusableRetriever when no thread can be started, as at the end of the interpreter.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._work: set[asyncio.Task[Any]] = set()
        self._lock = threading.RLock()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="periscope-client", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._loop.close()
            raise UnusableRetriever(f"no thread can be started for this retriever ({error})") from None

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Wait for `work`. An interruption (Ctrl-C) here cancels it there. Raises: UnusableRetriever after `stop`."""
        with self._lock:
            if self._stopping:
                work.close()
                raise UnusableRetriever(CLOSED)
            future = asyncio.run_coroutine_threadsafe(self._noted(work), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:  # nobody else cancels what is waited for here
            raise UnusableRetriever("this retriever was closed before the call was done") from None
        except RuntimeError as error:
            if "shutdown" not in str(error):
                raise
            raise UnusableRetriever(f"the interpreter is ending, and a retriever needs threads ({error})") from None
        except BaseException:
            future.cancel()
            raise

    def call_soon(self, act: Callable[[], None]) -> None:
        """Have the loop do something."""
        self._loop.call_soon_threadsafe(act)

    def stop(self, retriever: AsyncRetriever) -> None:
        """Cancel what is still running, close `retriever`, end the loop."""
        if threading.current_thread() is self._thread:  # pragma: no cover (tested in a process of its own)
            # The garbage collector may drop a forgotten retriever in any thread; this one cannot wait for itself.
            self._loop.stop()
            return
        with self._lock:
            self._stopping = True
            end = asyncio.run_coroutine_threadsafe(self._wind_up(retriever), self._loop)
        end.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _noted(self, work: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.current_task()
        assert task is not None
        self._work.add(task)
        try:
            return await work
        finally:
            self._work.discard(task)

    async def _wind_up(self, retriever: AsyncRetriever) -> None:
        # Only what callers wait for: a transport ends its requests itself, in its own time.
        running = self._work - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await retriever.close()
        await self._loop.shutdown_default_executor()
