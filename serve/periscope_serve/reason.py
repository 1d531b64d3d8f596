"""Why Triton stopped, found in its log."""

from __future__ import annotations

TAIL = 15


def failure(lines: list[str]) -> str:
    """Why Triton ended before it was ready."""
    return tail(lines)


def tail(lines: list[str]) -> str:
    """The end of the log."""
    return "\n".join(lines[-TAIL:])
