"""How long to wait, and how often to try again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from periscope_client._errors import RequestTimeout, ServerUnavailable

Result = TypeVar("Result")

FIRST_DELAY = 0.25
LONGEST_DELAY = 8.0


@dataclass(frozen=True)
class Timeout:
    """Seconds to wait before giving up.

    connect: reaching the server and reading the retriever's configuration, retries included.
    request: one item, or one block of scores, from sending it to its answer, retries and the server's queue included.

    >>> Timeout()                 # 30 s to connect, 300 s an item
    Timeout(connect=30.0, request=300.0)
    >>> Timeout(request=5)        # an interactive search
    Timeout(connect=30.0, request=5)
    >>> Timeout.of(10)            # a plain number, wherever a Timeout is taken, sets both
    Timeout(connect=10.0, request=10.0)
    """

    connect: float = 30.0
    request: float = 300.0

    def __post_init__(self) -> None:
        if not (self.connect > 0 and self.request > 0):
            raise ValueError(f"timeouts are positive numbers of seconds, not {self}")

    @classmethod
    def of(cls, value: Timeout | float) -> Timeout:
        """`value` itself, or both limits set to a number of seconds."""
        return value if isinstance(value, Timeout) else cls(float(value), float(value))


DEFAULT_TIMEOUT = Timeout()


async def call_with_retries(
    call: Callable[[], Awaitable[Result]],
    *,
    seconds: float,
    retries: int,
    before_retry: Callable[[], Awaitable[None]] | None = None,
) -> Result:
    """The result of `call()`, tried again after `ServerUnavailable` and after nothing else.

    The pauses double from a quarter of a second to 8 s; each is shortened at random by up to half, so that clients that
    lost the same server do not return in step. All attempts and pauses together take at most `seconds`.

    Raises: RequestTimeout when the time is up, ServerUnavailable after `retries` further attempts.
    """
    started = time.monotonic()
    deadline = started + seconds
    for attempt in range(retries + 1):
        try:
            if attempt and before_retry is not None:
                await asyncio.wait_for(before_retry(), deadline - time.monotonic())
            return await asyncio.wait_for(call(), deadline - time.monotonic())
        except asyncio.TimeoutError:
            raise RequestTimeout(
                f"no answer within {seconds:g} s. Allow more (timeout), or keep fewer requests in flight (concurrency)"
            ) from None
        except ServerUnavailable as error:
            pause = min(FIRST_DELAY * 2**attempt, LONGEST_DELAY) * random.uniform(0.5, 1)
            if attempt == retries or time.monotonic() + pause >= deadline:
                tries = f"{attempt + 1} attempts in {time.monotonic() - started:.1f} s"
                raise ServerUnavailable(f"{error.message} ({tries})", error.step) from None
            await asyncio.sleep(pause)
    raise AssertionError("unreachable")  # pragma: no cover
