"""Limits of waiting: for an answer, and for a server that is unavailable."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from periscope_client._errors import RequestTimeout, ServerUnavailable
from periscope_client._log import logger

Result = TypeVar("Result")

FIRST_DELAY = 0.25
LONGEST_DELAY = 8.0

# A server that went away is asked this often at least whether it is back: one small question, whatever is in flight.
LONGEST_LOOK = 2.0

# A restart of this length is nothing that anybody has to be told.
QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class Timeout:
    """Seconds to wait before giving up.

    connect: reaching the server and reading the retriever's configuration.
    request: one item, or one block of scores, from sending it to its answer, the server's queue included; if it is sent
        again, all times together. How long an unavailable server is waited for is another matter (`wait`).

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


@dataclass(frozen=True)
class Patience:
    """The wait for a server that is unavailable. The last attempt is made when the time is up.

    seconds: the longest wait.
    retries: the most further attempts.
    longest: the seconds to which pauses double, from a quarter of a second; each is shortened at random by up to half,
        so that clients that lost the same server do not return in step.
    """

    seconds: float
    retries: int | None = None
    longest: float = LONGEST_DELAY

    def pause(self, attempts: int, waited: float) -> float | None:
        """Seconds to pause after so many attempts, the first of which failed `waited` seconds ago; None to give up."""
        if waited >= self.seconds or (self.retries is not None and attempts > self.retries):
            return None
        doubled: float = FIRST_DELAY * 2 ** min(attempts - 1, 10)
        return min(min(doubled, self.longest) * random.uniform(0.5, 1), self.seconds - waited)


async def call_with_retries(
    call: Callable[[], Awaitable[Result]],
    *,
    seconds: float,
    patience: Patience,
    attempts: int = 0,
    before_retry: Callable[[], Awaitable[object]] | None = None,
    on_wait: Callable[[ServerUnavailable, float], None] = lambda error, left: None,
) -> Result:
    """The result of `call()`, tried again after `ServerUnavailable` and after nothing else, with `patience`.

    seconds: for all attempts together; neither the pauses nor `before_retry` count.
    attempts: how many have been made before.
    before_retry: awaited after each pause; what it raises ends the retries.
    on_wait: called after each failure that is waited for, with the seconds that patience lasts.

    Raises: RequestTimeout when the attempts have taken `seconds`, ServerUnavailable when patience is at its end.
    """
    started, spent = time.monotonic(), 0.0
    failed_at: float | None = None
    for attempt in itertools.count(attempts + 1):
        began = time.monotonic()
        try:
            return await asyncio.wait_for(call(), seconds - spent)
        except asyncio.TimeoutError:
            raise RequestTimeout(
                f"no answer within {seconds:g} s. Allow more (timeout), or keep fewer requests in flight (concurrency)"
            ) from None
        except ServerUnavailable as error:
            now = time.monotonic()
            spent += now - began
            failed_at = now if failed_at is None else failed_at
            pause = patience.pause(attempt, now - failed_at)
            if pause is None:
                raise ServerUnavailable(f"{error.message} ({_tried(attempt, now - started)})", error.step) from None
            on_wait(error, patience.seconds - (now - failed_at))
        await asyncio.sleep(pause)
        if before_retry is not None:
            await before_retry()
    raise AssertionError("unreachable")  # pragma: no cover


def _tried(attempts: int, seconds: float) -> str:
    return f"{attempts} attempt{'s' * (attempts != 1)} in {seconds:.1f} s"


class Announcement:
    """Says once, on the logger of this package, that a server is waited for, and once that it is back."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._since = time.monotonic()
        self._said = False

    def waiting(self, error: ServerUnavailable, left: float) -> None:
        """Said when it has taken long enough to be noticed."""
        if not self._said and time.monotonic() - self._since >= QUIET_SECONDS:
            self._said = True
            logger.warning("waiting up to %.0f s for the server at %s: %s", math.ceil(left), self._address, error)

    def back(self) -> None:
        """Said only after `waiting`."""
        if self._said:
            logger.warning("the server at %s is back after %.0f s", self._address, time.monotonic() - self._since)
