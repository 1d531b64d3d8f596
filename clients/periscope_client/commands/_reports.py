"""Reports of the commands on stderr: failed items, errors, and the client's messages while it works."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from PIL import Image

from periscope_client._account import FEW, by_reason, called
from periscope_client._content_warning import ContentWarning
from periscope_client._errors import ItemError, PeriscopeError
from periscope_client._log import logger


def report_failed(command: str, errors: Mapping[int, ItemError]) -> int:
    """Account for every failed item on stderr: a few of one reason a line each, many in one line with their count.

    The exit status: 1 if there is one, else 0.
    """
    for alike in by_reason(errors.values()):
        if len(alike) <= FEW:
            lines = [f"{error.name}: {error.cause}" for error in alike]
        else:
            lines = [f"{called(alike, lambda error: error.name)}: {alike[0].cause.reason}"]
        for line in lines:
            print(f"periscope {command}: {line}", file=sys.stderr)
    return 1 if errors else 0


def plain_errors(command: str) -> Callable[[Callable[[argparse.Namespace], int]], Callable[[argparse.Namespace], int]]:
    """Decorate `run(args)`: what is expected to go wrong becomes one line on stderr and exit status 1."""

    def decorate(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
        @functools.wraps(run)
        def guarded(args: argparse.Namespace) -> int:
            try:
                with _logged(command), _plain_warnings(command):
                    return run(args)
            except BrokenPipeError:
                raise  # `console.main` knows what it means
            except (PeriscopeError, OSError) as error:
                print(f"periscope {command}: {error}", file=sys.stderr)
                return 1

        return guarded

    return decorate


@contextlib.contextmanager
def _logged(command: str) -> Iterator[None]:
    """Send the client's messages while it works (that it waits for a server) to stderr, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"periscope {command}: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _plain_warnings(command: str) -> Iterator[None]:
    """Make a line on stderr of lost content of a file, and of Pillow's warnings, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", ContentWarning)
        show = warnings.showwarning

        def show_plainly(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, UserWarning | Image.DecompressionBombWarning):
                print(f"periscope {command}: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = show_plainly
        yield
