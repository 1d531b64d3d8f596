"""The exported graphs of a repository, one after the other, with no server around them: what a server costs.

Run by the project's own environment; speaks the lines that `host.py` describes, and its checkpoint is a repository.
Items are prepared before the clock starts: `seconds` is what the graphs alone take. Legend: B rows (one), T tokens,
K dimensions.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from periscope_runtime.collate import Tensors, collate
from periscope_runtime.completion import completed
from periscope_runtime.paths import IMAGE, PATHS, TEXT, ItemPath
from periscope_runtime.prepare import Preparer, Row

if TYPE_CHECKING or __package__:
    from periscope_perf.peers.answering import serve
    from periscope_perf.peers.graphs import Array, open_graph, versions
else:  # run by its path
    from answering import serve
    from graphs import Array, open_graph, versions


class Chain:
    """The graphs of a repository that holds one retriever."""

    def __init__(self, repository: Path, threads: int) -> None:
        report = json.loads((repository / "fidelity.json").read_text(encoding="utf-8"))
        name = report["retriever"]
        self.preparer = preparer(repository)
        self.order: dict[str, list[str]] = report["order"]
        self.graphs = {
            step: open_graph(repository / f"{name}_{step}" / "1", threads)
            for step, paths in self.order.items()
            if all(PATHS[path].embedded for path in paths)
        }
        self.inputs = {name: about for graph in self.graphs.values() for name, about in graph.inputs.items()}

    def tensors(self, row: Row) -> Tensors:
        """Return what the graphs take in of an item."""
        tensors = collate([row], self.preparer.preparation.buckets, self.preparer.kept)
        # Whole vectors are as wide as the hidden states, which the heads read.
        return completed(tensors, self.inputs, self.inputs["hidden_states"].width or 0)

    def run(self, tensors: Tensors, path: ItemPath) -> Tensors:
        """Run the steps of a path."""
        for step, graph in self.graphs.items():
            if path.name in self.order[step]:
                tensors.update(graph.run(tensors))
        return tensors


class Peer:
    """The operations, by their names."""

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open the graphs."""
        self.chain = Chain(Path(request["checkpoint"]), request["threads"])
        return {"versions": versions(self.chain.graphs.values())}

    def pages(self, request: dict[str, Any]) -> dict[str, Any]:
        """Embed pages."""
        return self._embed([self.chain.preparer.image(Path(file).read_bytes()) for file in request["files"]], IMAGE)

    def queries(self, request: dict[str, Any]) -> dict[str, Any]:
        """Embed queries."""
        return self._embed([self.chain.preparer.text(text.encode(), "query") for text in request["texts"]], TEXT)

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """From bytes to patches, in so many threads."""
        files = [Path(file).read_bytes() for file in request["files"]]
        prepare = preparer(Path(request["checkpoint"])).image
        with ThreadPoolExecutor(request["threads"]) as pool:
            prepare(files[0])
            start = time.perf_counter()
            list(pool.map(prepare, files))
            return {"seconds": time.perf_counter() - start}

    def _embed(self, rows: Sequence[Row], path: ItemPath) -> dict[str, Any]:
        prepared = [self.chain.tensors(row) for row in rows]
        start = time.perf_counter()
        done = [self.chain.run(tensors, path) for tensors in prepared]
        return {"seconds": time.perf_counter() - start, "vectors": [_vectors(tensors) for tensors in done]}


def preparer(repository: Path) -> Preparer:
    """The preparation of a repository's items, as its server does it."""
    name = json.loads((repository / "fidelity.json").read_text(encoding="utf-8"))["retriever"]
    return Preparer(repository / f"{name}_preprocess_image" / "1")


def _vectors(tensors: Tensors) -> Array:
    """Late vectors [T, K] of tokens that have one, or the dense one [1, K]."""
    if "late" in tensors:
        late_TK: Array = tensors["late"][0][tensors["late_mask"][0] > 0]
        return late_TK
    return tensors["dense"]


if __name__ == "__main__":
    serve(Peer())
