"""Pages a second: through the running server, and through the published implementation, interleaved in one run.

    python -m periscope_perf.speed --rounds 5 --pages 8

The checkpoint has the widths of Qwen2-VL-2B with 4 vision and 4 language layers and random weights; both sides get the
same PNG files, use all cores and compute in float32. Vectors of both are compared, so that speed is not bought.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from periscope_client import Retriever
from periscope_export.exporter import Request, export, progress
from periscope_serve.server import Server
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.colqwen2.reference import ColQwen2Reference
from periscope_testing.qwen2_vl import QWEN2_VL_2B_WIDTHS
from periscope_testing.reference import Floats

# 28 x 40 patches, the page of 1120 patches that docs and issues speak of.
PAGE_SIZE = (560, 392)


def main() -> int:
    """Measure and print a line a side: median, fastest and slowest round."""
    parser = argparse.ArgumentParser(prog="python -m periscope_perf.speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=int, default=8)
    args = parser.parse_args()
    say = progress()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = make_colqwen2(folder / "checkpoint", QWEN2_VL_2B_WIDTHS, adapter=None)
        repository = export(Request(str(checkpoint), "colqwen2", folder / "repository"), say)
        say(f"peak resident memory of making and exporting: {_peak_memory_gb():.1f} GB")
        pages = [random_page(seed) for seed in range(args.pages)]
        reference = ColQwen2Reference(checkpoint)
        with Server([repository], grpc_port=0, http_port=0, metrics_port=0, log=folder / "triton.log") as server:
            say(server.ready_line())
            with Retriever(server.grpc_url, "colqwen2") as retriever:
                sides: dict[str, Callable[[], Sequence[Floats]]] = {
                    "served": lambda: retriever.embed_image(pages).late_vectors(),
                    "published, a page at a time": lambda: [reference.images([_open(page)])[0] for page in pages],
                    "published, four pages at a time": lambda: _by_four(reference, pages),
                }
                seconds = _interleave(sides, args.rounds, say)
                difference = max(
                    float(np.abs(one - other).max())
                    for one, other in zip(*(sides[name]() for name in list(sides)[:2]), strict=True)
                )
    for name, values in seconds.items():
        rates = sorted(args.pages / value for value in values)
        print(f"{name:<34}{statistics.median(rates):6.3f} pages/s  ({rates[0]:.3f} to {rates[-1]:.3f})")
    best = min(statistics.median(values) for name, values in seconds.items() if name != "served")
    print(f"served / better published{best / statistics.median(seconds['served']):15.2f} x")
    print(f"largest difference of a vector {difference:.1e}")
    return 0


def _interleave(
    sides: Mapping[str, Callable[[], object]], rounds: int, say: Callable[[str], None]
) -> dict[str, list[float]]:
    """Time every side once a round, after one warm-up each."""
    for side in sides.values():
        side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            seconds[name].append(time.perf_counter() - start)
        say(f"round {number + 1} of {rounds}: " + ", ".join(f"{name} {seconds[name][-1]:.1f} s" for name in sides))
    return seconds


def _by_four(reference: ColQwen2Reference, pages: list[bytes]) -> list[Floats]:
    return [
        vectors
        for first in range(0, len(pages), 4)
        for vectors in reference.images([_open(page) for page in pages[first : first + 4]])
    ]


def random_page(seed: int) -> bytes:
    """Return a page of 1120 patches as a PNG file."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (PAGE_SIZE[1] // 8, PAGE_SIZE[0] // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(PAGE_SIZE, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def _open(page: bytes) -> Image.Image:
    return Image.open(io.BytesIO(page))


def _peak_memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # Linux counts in kB


if __name__ == "__main__":
    sys.exit(main())
