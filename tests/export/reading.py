"""Read weights of a checkpoint in a process of its own, where nothing else takes or frees memory meanwhile.

    python reading.py CHECKPOINT [--base BASE] --weights NAME [NAME ...]

prints, as JSON, by how many bytes anonymous memory grew at most, and the first number and the sum of each weight.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

from periscope_export.checkpoint.reading import open_checkpoint


def anonymous_bytes() -> int:
    """Memory of this process that is not pages of a file: what the system cannot drop."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


class Peak:
    """Largest growth of anonymous memory while the block runs, sampled every millisecond and at the end."""

    def __enter__(self) -> Peak:
        self.start, self.growth, self._over = anonymous_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _sample(self) -> None:
        while not self._over.is_set():
            self._look()
            time.sleep(0.001)

    def _look(self) -> None:
        self.growth = max(self.growth, anonymous_bytes() - self.start)


def main() -> None:
    """Read the weights one after another and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--weights", nargs="+")
    arguments = parser.parse_args()
    found = []
    with Peak() as reading:
        opened = open_checkpoint(arguments.checkpoint, arguments.base, canonical=str).weights
        for name in arguments.weights:
            weight = opened.read(name)
            found.append((float(weight.flatten()[0]), float(weight.sum())))
    print(json.dumps({"growth": reading.growth, "weights": found}))


if __name__ == "__main__":
    main()
