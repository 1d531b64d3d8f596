"""Ctrl-C and SIGTERM while items are embedded: the call ends early, and what has arrived is kept."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from periscope_client._sync import Retriever


@contextlib.contextmanager
def halted_by_signals(retriever: Retriever) -> Iterator[list[int]]:
    """Within it, a signal ends the calls of `retriever` that embed, as if their items had ended. Gives the signals.

    A second Ctrl-C is a KeyboardInterrupt. Signals that are ignored (nohup, a background job's SIGINT) stay ignored.
    """
    received: list[int] = []

    def halt(signum: int, frame: FrameType | None) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)
        retriever._halt()

    before = {}
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(signum) != signal.SIG_IGN:
                before[signum] = signal.signal(signum, halt)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
