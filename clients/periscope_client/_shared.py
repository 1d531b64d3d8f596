"""Work that several callers need at the same time, and that is done once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from periscope_client._errors import UnusableRetriever

Result = TypeVar("Result")


class Shared(Generic[Result]):
    """A piece of work of which there is one at a time: whoever asks while it runs gets the result of that run."""

    def __init__(self) -> None:
        self._task: asyncio.Future[Result] | None = None

    @property
    def running(self) -> bool:
        """Whether somebody waits for a result now."""
        return self._task is not None

    async def result(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Raises what the work raises. It goes on when somebody who waits for it leaves."""
        if self._task is None:
            self._task = asyncio.ensure_future(work())
            self._task.add_done_callback(self._end)
        task = self._task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by `cancel`, not by whoever waits
                raise UnusableRetriever("this retriever was closed before the answer came") from None
            raise

    def cancel(self) -> None:
        """End the work, if there is any: those who wait for it see UnusableRetriever."""
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Future[Result]) -> None:
        self._task = None
        if not task.cancelled():
            task.exception()  # those who waited for it may all have left
