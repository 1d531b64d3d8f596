"""Many items, a bounded number of them in flight, each read only when its turn comes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Source(Generic[Item]):
    """Hands out numbered items. A generator runs in a thread, one step at a time: it may render pages or read files."""

    def __init__(self, items: Iterable[Item], total: int | None = None) -> None:
        # With a `total` the items come from a collection, whatever wraps it.
        self.total = len(items) if isinstance(items, Sequence) else total
        self._items = iter(items)
        self._next_index = 0
        self._turn = asyncio.Lock()
        self._left: int | None = None

    def stop(self) -> None:
        """Read no further into an iterator than to the next item: it is named as the first whose turn did not come.

        A collection is still handed out to its end: that costs nothing.
        """
        if self._left is None and self.total is None:
            self._left = 1

    async def take(self) -> tuple[int, Item] | None:
        """The next item and its number, or None at the end."""
        async with self._turn:
            if self._left == 0:
                return None
            if self.total is None:
                taken = await asyncio.to_thread(self._step)
            else:
                taken = self._step()
            if not taken:
                return None
            self._next_index += 1
            if self._left is not None:
                self._left -= 1
            return self._next_index - 1, taken[0]

    def _step(self) -> tuple[Item, ...]:
        # An empty tuple marks the end: StopIteration cannot pass through a future.
        return next(((item,) for item in self._items), ())


async def fly(source: Source[Item], handle: Callable[[int, Item], Awaitable[None]], *, concurrency: int) -> None:
    """Await `handle(index, item)` for every item, at most `concurrency` at once.

    `handle` deals with the failure of an item itself; what it lets through stops everything and is raised from here.
    """

    async def worker() -> None:
        while (taken := await source.take()) is not None:
            await handle(*taken)

    count = concurrency if source.total is None else min(concurrency, source.total)
    workers = [asyncio.ensure_future(worker()) for _ in range(count)]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
