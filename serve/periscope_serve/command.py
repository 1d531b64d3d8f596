"""`periscope serve`: the embedded Triton in the foreground, until a signal or its death ends it."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from periscope_serve.errors import ServeError
from periscope_serve.server import Server


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `periscope serve`."""
    parser.add_argument("directories", metavar="DIR", nargs="+", type=Path, help="a Triton model repository")
    parser.add_argument("--grpc-port", type=int, default=8001, metavar="N", help="0 picks a free one (default: 8001)")
    parser.add_argument("--http-port", type=int, default=8000, metavar="N", help="0 picks a free one (default: 8000)")
    parser.add_argument("--metrics-port", type=int, default=8002, metavar="N", help="0 picks one (default: 8002)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on; 0.0.0.0 is every one (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--start-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="give up when nothing is ready by then (default: 300)",
    )
    parser.add_argument(
        "--drain",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="on SIGTERM and SIGINT, wait so long for requests in flight (default: 30)",
    )
    parser.add_argument(
        "--verify-files",
        action="store_true",
        help="before the start, read every file and compare it with its SHA-256 in fidelity.json",
    )
    parser.add_argument(
        "--log-verbose", type=int, default=0, metavar="N", help="Triton's verbose log level (default: 0, off)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM (status 0), or until it cannot go on (status 1, with the reason on stderr)."""
    stop, now = threading.Event(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: (now if stop.is_set() else stop).set())
    server = Server(
        args.directories,
        host=args.host,
        grpc_port=args.grpc_port,
        http_port=args.http_port,
        metrics_port=args.metrics_port,
        start_timeout=args.start_timeout,
        log_verbose=args.log_verbose,
        verify_files=args.verify_files,
    )
    try:
        server.start(cancelled=stop.is_set)
        if not stop.is_set():
            print(server.ready_line(), flush=True)
        while not stop.wait(0.2):
            server.check()
        if server.models and args.drain > 0:
            _say(f"stopping: what is in flight has {args.drain:g} seconds to be answered, a second signal ends it now")
            if not server.drain(args.drain, now.is_set):
                _say("stopping with requests in flight, which fail")
    except ServeError as error:
        _say(str(error))
        return 1
    finally:
        server.stop(now.is_set)
    return 0


def _say(line: str) -> None:
    print(f"periscope serve: {line}", file=sys.stderr, flush=True)
