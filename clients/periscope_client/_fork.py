"""Connections that a forked process inherits and must not touch.

A fork copies memory, but neither the threads that work on it nor what the kernel keeps: parent and child share sockets,
and the kernel's list of what an event loop waits for. So a child starts afresh, and what it inherited is neither used
there nor cleaned up: closing a connection there would take leave in the parent's name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import weakref
from collections.abc import Iterator
from typing import Protocol


class Forkable(Protocol):
    """Something that starts afresh in a child."""

    def _forked(self) -> None:
        """Called in the child, right after the fork, while it has one thread."""


_known: weakref.WeakSet[Forkable] = weakref.WeakSet()


def start_afresh(forkable: Forkable) -> None:
    """Call `forkable._forked()` in every child that is forked while it exists."""
    _known.add(forkable)


def keep_for_ever(inherited: object) -> None:
    """Keep an object from ever being collected by this process, at its end neither."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


@contextlib.contextmanager
def grpc_left_alone() -> Iterator[None]:
    """Load gRPC, in this block, without its own preparations for a fork, unless the environment asks for them.

    They end a child that is forked during a call by a signal, one in eight times, whether or not it uses gRPC.
    """
    name = "GRPC_ENABLE_FORK_SUPPORT"  # which gRPC reads once, when it is loaded
    asked = name in os.environ
    if not asked:
        os.environ[name] = "0"
    try:
        yield
    finally:
        if not asked:
            os.environ.pop(name, None)


def _in_child() -> None:
    for forkable in list(_known):
        forkable._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
