"""`periscope-healthcheck`: whether a Triton answers, by the smallest request to each ensemble.

Triton says that it is ready as long as its models are loaded, whatever became of the processes that run them. A server
at work is not given more of it: an ensemble that has just answered others, and failed none, is not asked.
Needs the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from periscope_serve import health, stopping
from periscope_serve.smallest import PAGE, WORD

KEY = "PERISCOPE_ADMIN_KEY"
_HEADER = "periscope-admin"
_WATCHED = 1.0

# Inputs of callers: a text, a page, a video's frame. A reranker takes a query and a candidate of one kind or another.
_ITEMS = {"TEXT": WORD, "IMAGE": PAGE, "VIDEO": PAGE}
_PAIR = (("QUERY_TEXT", "QUERY_IMAGE"), ("TEXT", "IMAGE"))


class UnhealthyError(Exception):
    """The server does not do what it is there for."""


class Counts(NamedTuple):
    """The numbers of a model's requests that were answered and that failed."""

    answered: int
    failed: int


class Server(NamedTuple):
    """A Triton.

    host, port: where it listens.
    headers: the key to its closed APIs.
    seconds: that an answer may take.
    """

    host: str
    port: int
    headers: Mapping[str, str]
    seconds: float

    def counts(self) -> dict[str, Counts]:
        """Of every model that is loaded."""
        counts: dict[str, Counts] = {}
        for entry in self._get("/v2/models/stats")["model_stats"]:
            stats = entry["inference_stats"]
            counts[entry["name"]] = Counts(int(stats["success"]["count"]), int(stats["fail"]["count"]))
        return counts

    def config(self, model: str) -> dict[str, Any]:
        """The config of a model."""
        return self._get(f"/v2/models/{model}/config")

    def infer(self, model: str, inputs: Mapping[str, tuple[list[int], bytes]]) -> None:
        """Send one string in each input, of this shape.

        Raises: UnhealthyError with the answer that is none, TimeoutError where there is no answer at all.
        """
        sizes = {name: len(item) + 4 for name, (_, item) in inputs.items()}
        asked = {
            "inputs": [
                {"name": name, "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": sizes[name]}}
                for name, (shape, _) in inputs.items()
            ],
            "parameters": {"binary_data_output": True},
        }
        described = json.dumps(asked).encode()
        body = described + b"".join(struct.pack("<I", len(item)) + item for _, item in inputs.values())
        headers = {**self.headers, "Inference-Header-Content-Length": str(len(described))}
        status, answer = health.ask(
            self.host, self.port, "POST", f"/v2/models/{model}/infer", body, headers, self.seconds
        )
        if status == 0:
            raise TimeoutError
        if status != 200:
            raise UnhealthyError(f"{model} answers {status}: {_told(answer)}")

    def _get(self, path: str) -> dict[str, Any]:
        status, body = health.ask(self.host, self.port, "GET", path, headers=self.headers)
        if status != 200:
            raise UnhealthyError(f"{path} answers {status or 'nothing'}: {_told(body)}")
        found: dict[str, Any] = json.loads(body)
        return found


def check(server: Server) -> list[str]:
    """Return the ensembles that answer. Raises `UnhealthyError`."""
    if stopping.is_announced(server.port):
        raise UnhealthyError("the server is about to stop")
    if not health.ready(server.host, server.port):
        raise UnhealthyError(f"not every model is ready at {server.host}:{server.port}")
    before = server.counts()
    configs = {name: server.config(name) for name in before}
    ensembles = {name: config for name, config in configs.items() if "ensemble_scheduling" in config}
    if ensembles:
        time.sleep(_WATCHED)
    between = server.counts()
    quiet = {name: inputs for name, one in ensembles.items() if (inputs := _smallest(one)) is not None}
    asked = {name: inputs for name, inputs in quiet.items() if not _works(before.get(name), between.get(name))}

    def probe(name: str) -> str | None:
        try:
            server.infer(name, asked[name])
        except UnhealthyError as error:
            return str(error)
        except TimeoutError:
            steps = {step["model_name"] for step in ensembles[name]["ensemble_scheduling"]["step"]} | {name}
            after = server.counts()
            # It waits behind others, whose answers come.
            if not any(_works(between.get(one), after.get(one)) for one in steps):
                return f"{name} does not answer within {server.seconds:g} seconds"
        return None

    with ThreadPoolExecutor(max(1, len(asked))) as threads:
        problems = [problem for problem in threads.map(probe, asked) if problem]
    if problems:
        raise UnhealthyError("; ".join(problems))
    return sorted(quiet)


def _works(before: Counts | None, after: Counts | None) -> bool:
    """Whether a model has answered in between, and failed nothing."""
    if before is None or after is None:
        return False
    return after.answered > before.answered and after.failed == before.failed


def _smallest(config: Mapping[str, Any]) -> dict[str, tuple[list[int], bytes]] | None:
    """Return the smallest inputs of an ensemble, None of one that takes something else than we know."""
    declared = {tensor["name"]: tensor for tensor in config["input"]}
    needed = [name for name, tensor in declared.items() if not tensor.get("optional")]
    if not needed:
        needed = [next((name for name in names if name in declared), "") for names in _PAIR]
    rows = [1] if config.get("max_batch_size", 0) else []
    inputs = {}
    for name in needed:
        item = _ITEMS.get(name.removeprefix("QUERY_"))
        if item is None or any(int(length) not in (-1, 1) for length in declared[name]["dims"]):
            return None
        inputs[name] = ([*rows, *(1 for _ in declared[name]["dims"])], item)
    return inputs


def _told(body: bytes) -> str:
    """Return the message in an answer of Triton's."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace") or "no message"


def main(argv: Sequence[str] | None = None) -> int:
    """Ask, and say in one line how it is: 0 when the server is healthy, 1 when it is not."""
    parser = argparse.ArgumentParser(
        prog="periscope-healthcheck", description="Send the smallest request to each ensemble of a Triton."
    )
    parser.add_argument("--host", default="127.0.0.1", help="where Triton listens (default: 127.0.0.1)")
    parser.add_argument("--http-port", type=int, default=8000, metavar="N", help="default: 8000")
    parser.add_argument(
        "--timeout", type=float, default=20.0, metavar="SECONDS", help="how long an answer may take (default: 20)"
    )
    args = parser.parse_args(argv)
    key = os.environ.get(KEY)
    server = Server(args.host, args.http_port, {_HEADER: key} if key else {}, args.timeout)
    try:
        print(f"healthy: {', '.join(check(server)) or 'no ensemble to ask'}")
    except UnhealthyError as error:
        print(f"unhealthy: {error}")
        return 1
    except (ValueError, KeyError, TypeError):
        print(f"unhealthy: what listens at {args.host}:{args.http_port} does not answer as Triton does")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
