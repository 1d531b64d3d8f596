"""The server that a command talks to: its options, and the retriever that they name."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from periscope_client._endpoint import parse_endpoint
from periscope_client._sync import Retriever
from periscope_client._timeout import Timeout
from periscope_client.commands._arguments import not_negative, positive
from periscope_client.commands._files import secret_of

# Users of a command on many pages would rather wait for a restart than run it again.
WAIT_SECONDS = 120.0

DEFAULT_URLS = {"grpc": "localhost:8001", "http": "localhost:8000"}


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that talks to a server."""
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
        type=positive,
        default=300.0,
        metavar="SECONDS",
        help="longest wait for one page or text (default: %(default)g)",
    )
    server.add_argument(
        "--wait",
        type=not_negative,
        metavar="SECONDS",
        help="how long to wait for a server that is not there (yet, or any more); 0 for not at all "
        f"(default: {WAIT_SECONDS:g}, or --timeout if that is shorter)",
    )


def open_retriever(args: argparse.Namespace) -> Retriever:
    """The retriever that the options and the environment name.

    Raises: SystemExit with status 2 and a line on stderr when they contradict each other; InvalidInput for the file of
    the token.
    """
    url = args.url or DEFAULT_URLS[args.protocol or "grpc"]
    if args.token_file is not None:
        token: str | None = secret_of(args.token_file).strip()
    else:
        token = os.environ.get("PERISCOPE_TOKEN", "").strip() or None
    names = [name.lower() for name, _ in args.header]
    if twice := next((name for name in names if names.count(name) > 1), None):
        args.refuse(
            f"--header gives {twice} twice: give it once, its values in one with commas where it may have several"
        )
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
