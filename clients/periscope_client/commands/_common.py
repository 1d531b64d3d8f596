"""What `periscope embed`, `search` and `rerank` share: options, pages of the files, errors as plain lines."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from periscope_client._account import FEW, by_reason, called
from periscope_client._content_warning import ContentWarning
from periscope_client._endpoint import parse_endpoint
from periscope_client._errors import InvalidInput, ItemError, PeriscopeError
from periscope_client._items import BrokenItem, ImageItem
from periscope_client._log import logger
from periscope_client._pages import file_page, file_pages
from periscope_client._sync import Retriever
from periscope_client._timeout import Timeout

# Who runs a command on many pages would rather wait for a restart than run it again.
WAIT_SECONDS = 120.0

DEFAULT_URLS = {"grpc": "localhost:8001", "http": "localhost:8000"}


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that talks to a server or reads pages."""
    server = parser.add_argument_group("server")
    server.add_argument(
        "--url",
        type=_url,
        default=os.environ.get("PERISCOPE_URL") or None,
        help="HOST:PORT, or grpc://HOST:PORT, grpcs://HOST, https://HOST/PREFIX... "
        "(default: PERISCOPE_URL, or localhost:8001, http: localhost:8000)",
    )
    server.add_argument(
        "--model", metavar="NAME", help="name of the retriever on the server (default: the only one that it has)"
    )
    server.add_argument("--protocol", choices=sorted(DEFAULT_URLS), help="default: that of the URL, or grpc")
    server.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the bearer token to send; without it, the token is what PERISCOPE_TOKEN says",
    )
    server.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME:VALUE",
        help="header to send with every request; may be repeated. Others on this machine may see it: no secrets",
    )
    for name, what in (
        ("ca", "certificates of the authorities to trust"),
        ("cert", "the client's own certificate"),
        ("key", "private key of --cert"),
    ):
        variable = f"PERISCOPE_{name.upper()}"
        server.add_argument(
            f"--{name}",
            type=Path,
            default=os.environ.get(variable) or None,
            metavar="FILE",
            help=f"{what}, in PEM (default: {variable})",
        )
    server.add_argument(
        "--timeout",
        type=_positive,
        default=300.0,
        metavar="SECONDS",
        help="longest wait for one page or text (default: %(default)g)",
    )
    server.add_argument(
        "--wait",
        type=_not_negative,
        metavar="SECONDS",
        help="how long to wait for a server that is not there (yet, or any more); 0 for not at all "
        f"(default: {WAIT_SECONDS:g}, or --timeout if that is shorter)",
    )
    parser.add_argument(
        "--dpi", type=_positive, default=144.0, help="resolution at which PDF pages are rendered (default: %(default)g)"
    )
    parser.add_argument(
        "--pdf-password-file",
        type=Path,
        metavar="FILE",
        help="file with the password of locked PDFs; without it, the password is what PERISCOPE_PDF_PASSWORD says",
    )


def add_instruction_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that replace the instruction in the recipe's prompt."""
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--instruction", metavar="TEXT", help="what the prompt asks for (default: the recipe's)")
    asked.add_argument("--task", metavar="NAME", help="an instruction of the recipe, by its name")


def open_retriever(args: argparse.Namespace) -> Retriever:
    """The retriever that the options and the environment name.

    Raises: SystemExit with status 2 and a line on stderr when they contradict each other, OSError for the token's file.
    """
    url = args.url or DEFAULT_URLS[args.protocol or "grpc"]
    if args.token_file is not None:
        token = args.token_file.read_text(errors="replace").strip()
    else:
        token = os.environ.get("PERISCOPE_TOKEN", "").strip() or None
    wait = min(WAIT_SECONDS, args.timeout) if args.wait is None else args.wait
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            retriever = Retriever(
                url,
                args.model,
                protocol=args.protocol,
                headers=dict(args.header),
                token=token,
                ca=args.ca,
                cert=args.cert,
                key=args.key,
                timeout=Timeout(request=args.timeout),
                wait=wait,
            )
    except ValueError as error:
        print(f"periscope {args.command}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    for warning in warned:
        print(f"periscope {args.command}: {warning.message}", file=sys.stderr)
    return retriever


def pdf_password(args: argparse.Namespace) -> str | None:
    """The password of locked PDFs that the options and the environment give. Raises: OSError for its file."""
    if args.pdf_password_file is not None:
        text: str = args.pdf_password_file.read_text(errors="replace")
        return text.rstrip("\r\n")
    return os.environ.get("PERISCOPE_PDF_PASSWORD") or None


class Place(NamedTuple):
    """Where an item comes from."""

    file: Path
    page: int | None


class Pages:
    """The images and the pages of some files, read as they are iterated over; `places` says what has been read."""

    def __init__(self, files: Sequence[Path], dpi: float, password: str | None) -> None:
        self._files = files
        self._dpi = dpi
        self._password = password
        self.places: list[Place] = []

    def __iter__(self) -> Iterator[ImageItem]:
        for file in self._files:
            try:
                for page, number in file_pages(file, self._dpi, self._password):
                    self.places.append(Place(file, number))
                    yield page
            except InvalidInput as error:
                # One broken file must not end the iteration, and with it the call.
                self.places.append(Place(file, None))
                yield BrokenItem(os.fspath(file), error)

    def read(self, place: Place) -> ImageItem:
        """The image or the page of a place, once more."""
        return file_page(place.file, place.page, self._dpi, self._password)


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
    """What the client says while it works (that it waits for a server) goes to stderr, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"periscope {command}: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def _plain_warnings(command: str) -> Iterator[None]:
    """What is lost of a file's content becomes a line on stderr, once."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", ContentWarning)
        show = warnings.showwarning

        def show_plainly(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, ContentWarning):
                print(f"periscope {command}: {message}", file=sys.stderr)
            else:
                show(message, category, *place, **more)

        warnings.showwarning = show_plainly
        yield


def count(text: str) -> int:
    """A number of things, as an argument. Raises: ArgumentTypeError below 1, ValueError."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"give a number, at least 1, not {text!r}")
    return value


def _url(text: str) -> str:
    try:
        parse_endpoint(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"give NAME:VALUE, not {text!r}")
    return name.strip(), value.strip()


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"give a number of seconds, or 0, not {text!r}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"give a positive number, not {text!r}")
    return value
