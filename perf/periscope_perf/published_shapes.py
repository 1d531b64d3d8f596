"""Checkpoints of published sizes: exported and served on this machine, with what that takes.

    make published-shapes

writes random bf16 checkpoints with the exact shapes of published 2B models, exports each to fp32 and fp16 in a process
of its own, serves the repository, embeds a page and a query, and prints a row of a Markdown table for each. An export
may keep no more memory than the checkpoint's size on disk and 2 GB; pages of files do not count, they can be dropped.
Needs 25 GB on the disk of `--scratch`, and memory for the server; everything that was made is removed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from periscope_client import Embeddings, Retriever
from periscope_client.console import guarded
from periscope_export.exporter import Say, progress
from periscope_perf.memory import PeakMemory, descendants
from periscope_perf.speed import random_page
from periscope_serve.server import Server
from periscope_testing.systems import SYSTEMS

PRECISIONS = ("fp32", "fp16")
# Bytes that an export may keep in memory beyond the size of the checkpoint.
ALLOWANCE = 2 * 10**9

_COLUMNS = (
    "model", "precision", "checkpoint GB", "export s", "peak anonymous GB", "limit GB", "within", "peak resident GB",
    "max error", "page s", "query s", "server anonymous GB", "server resident GB",
)  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A published model: its name, the recipe that exports it, and what writes a random checkpoint of its shapes."""

    name: str
    recipe: str
    make: Callable[[Path], object]


PUBLISHED = tuple(
    Published(system.published[0], system.recipe, system.published[1])
    for system in SYSTEMS.values()
    if system.published
)


def main() -> int:
    """Measure all, and print the table; 0 when every export stays within its limit, else 1."""
    parser = argparse.ArgumentParser(prog="python -m periscope_perf.published_shapes", description=main.__doc__)
    parser.add_argument("--recipe", nargs="+", choices=[one.recipe for one in PUBLISHED], help="only these")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--scratch", type=Path, help="a disk with room (default: where temporary files go)")
    arguments = parser.parse_args()
    say = progress()
    rows: list[dict[str, Any]] = []
    for published in PUBLISHED:
        if arguments.recipe and published.recipe not in arguments.recipe:
            continue
        with tempfile.TemporaryDirectory(prefix="published-shapes-", dir=arguments.scratch) as scratch:
            checkpoint = Path(scratch) / "checkpoint"
            with _growing(checkpoint, f"{published.name}: writing a random checkpoint", say):
                published.make(checkpoint)
            for precision in arguments.precision:
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    rows.append(measure(published, checkpoint, precision, Path(folder), say))
                print(_line(rows[-1].values()), flush=True)
    print(_line(_COLUMNS), _line("---" for _ in _COLUMNS), *(_line(row.values()) for row in rows), sep="\n")
    return 0 if all(row["within"] == "yes" for row in rows) else 1


def measure(published: Published, checkpoint: Path, precision: str, folder: Path, say: Say) -> dict[str, Any]:
    """Export a checkpoint, serve it, and return a row of the table."""
    size = _weights(checkpoint)
    limit = size + ALLOWANCE
    repository = folder / "repository"
    command: Sequence[str | Path] = (
        *(Path(sys.executable).with_name("periscope"), "export", checkpoint, "--recipe", published.recipe),
        *("--precision", precision, "--output", repository),
    )
    say(f"{published.name}: exporting to {precision}")
    start = time.perf_counter()
    with PeakMemory(lambda: descendants(os.getpid())) as exporting:
        subprocess.run(command, check=True)
    seconds = time.perf_counter() - start
    fidelity = json.loads((repository / "fidelity.json").read_text(encoding="utf-8"))
    say(f"{published.name}: serving {precision}")
    with (
        PeakMemory(lambda: descendants(os.getpid())) as serving,
        Server([repository], grpc_port=0, http_port=0, metrics_port=0, start_timeout=900, log=folder / "log") as server,
        Retriever(server.grpc_url, published.recipe, timeout=600) as retriever,
    ):
        page_seconds = _timed(lambda: retriever.embed_image([random_page(0)]))
        query_seconds = _timed(lambda: retriever.embed_text(["revenue by region"]))
    return dict(
        zip(
            _COLUMNS,
            (
                *(published.name, precision, _gb(size), f"{seconds:.0f}"),
                *(_gb(exporting.anonymous), _gb(limit), "yes" if exporting.anonymous < limit else "NO"),
                *(_gb(exporting.resident), f"{fidelity['measured']['vectors']['max_abs_error']:.1e}"),
                *(f"{page_seconds:.1f}", f"{query_seconds:.2f}", _gb(serving.anonymous), _gb(serving.resident)),
            ),
            strict=True,
        )
    )


@contextmanager
def _growing(folder: Path, what: str, say: Say) -> Iterator[None]:
    """Say every few seconds how much is in a folder, while it is being filled."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(5):
            say(f"{what}, {_gb(_weights(folder))} GB so far")

    say(what)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _timed(embed: Callable[[], Embeddings]) -> float:
    """Return the seconds that one item takes, once the server is warm, after a look at its vectors."""
    check_vectors(embed())
    start = time.perf_counter()
    embed()
    return time.perf_counter() - start


def check_vectors(embeddings: Embeddings) -> None:
    """Raise `ValueError` unless every vector has length 1, which a nan or an infinity has not."""
    vectors = [each for each in (*(embeddings.late or ()), embeddings.dense) if each is not None]
    lengths = np.concatenate([np.linalg.norm(each, axis=-1) for each in vectors])
    # Not "greater than": a nan must not pass.
    if not (np.abs(lengths - 1) <= 1e-3).all():
        raise ValueError(f"vectors have lengths from {lengths.min()} to {lengths.max()}, not 1")


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f}"


if __name__ == "__main__":
    sys.exit(guarded("published-shapes", main))
