"""Waiting until a Triton has nothing to do: `periscope-drain`, and the first part of how `periscope serve` stops.

A Triton that is told to stop ends the schedulers of all models at once, and the next step of an ensemble is a request
to one: everything in flight is lost, whatever its exit timeout
(https://github.com/triton-inference-server/server/issues/6287). So it is told when nothing is in flight any more.
Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

from periscope_serve import health, stopping

STILL = 2.0
"""Seconds in which nothing may move where execution itself cannot be seen."""

_EVERY = 0.1
_SILENT = 10.0


def wait_until_idle(
    host: str,
    metrics_port: int,
    seconds: float,
    idle: Callable[[], bool | None] = lambda: None,
    given_up: Callable[[], bool] = lambda: False,
) -> bool:
    """Wait until nothing is pending or executing; whether that came within so many seconds, and before `given_up()`.

    Nothing is pending where the metrics say so and count no further answers. `idle` says whether every process that
    executes requests waits for one, None where nobody knows: what is executed then has two seconds to be answered.
    A server whose metrics are silent for ten seconds is not waited for.
    """
    end = time.monotonic() + seconds
    last, since, heard = None, time.monotonic(), time.monotonic()
    while not given_up():
        resting = idle()
        load, now = health.load(host, metrics_port), time.monotonic()
        if load is not None:
            heard = now
        if load is None or load.pending or load != last or resting is False:
            since = now
        # Between two steps a request is in Triton's hands for a moment, seen by nobody.
        elif now - since >= (STILL / 4 if resting else STILL):
            return True
        if now >= end or now - heard > _SILENT:
            return False
        last = load
        time.sleep(_EVERY)
    return False


def main(argv: Sequence[str] | None = None) -> int:
    """Wait, and say how it went: 0 when the server has nothing to do, 1 when it still has."""
    parser = argparse.ArgumentParser(
        prog="periscope-drain",
        description="Wait until a Triton has nothing to do. To be run before it is told to stop, as a preStop hook.",
    )
    parser.add_argument(
        "--settle",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="wait so long first, while balancers learn not to send anything (default: 5)",
    )
    parser.add_argument(
        "--max", type=float, default=60.0, metavar="SECONDS", help="then wait no longer than this (default: 60)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="where Triton listens (default: 127.0.0.1)")
    parser.add_argument("--http-port", type=int, default=8000, metavar="N", help="default: 8000")
    parser.add_argument("--metrics-port", type=int, default=8002, metavar="N", help="default: 8002")
    args = parser.parse_args(argv)
    with stopping.announced(args.http_port):
        time.sleep(args.settle)
        if wait_until_idle(args.host, args.metrics_port, args.max):
            print("periscope-drain: nothing is in flight", flush=True)
            return 0
    if health.load(args.host, args.metrics_port) is None:
        why = f"the metrics on port {args.metrics_port} do not answer, so nobody knows what is in flight"
    else:
        why = f"requests are still in flight after {args.max:g} seconds. Raise --max, or send no new ones"
    print(f"periscope-drain: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
