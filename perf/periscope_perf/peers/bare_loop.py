"""The exported graphs in ONNX Runtime, one after the other, with no server around them: what a server costs.

Run by the project's own environment; speaks the lines that `host.py` describes, and its checkpoint is a repository.
Items are prepared before the clock starts: `seconds` is what the graphs alone take. Legend: B rows (one).
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from periscope_runtime.collate import collate, dense_columns, no_visual_tokens
from periscope_runtime.prepare import Preparer, Row

Array = NDArray[Any]

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class Graphs:
    """The graphs of a repository that holds one retriever."""

    def __init__(self, repository: Path, threads: int) -> None:
        report = json.loads((repository / "fidelity.json").read_text(encoding="utf-8"))
        name = report["retriever"]
        self.preparer = Preparer(repository / f"{name}_preprocess_image" / "1")
        self.order: dict[str, list[str]] = report["order"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.sessions = {
            step: onnxruntime.InferenceSession(
                str(repository / f"{name}_{step}" / "1" / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for step, paths in self.order.items()
            if "search" not in paths
        }

    def tensors(self, row: Row, path: str) -> dict[str, Array]:
        """Return what the graphs of a path take in."""
        tensors: dict[str, Array] = dict(collate([row], self.preparer.preparation.buckets))
        for session in self.sessions.values():
            for node in session.get_inputs():
                if node.name == "visual_tokens" and path == "text":
                    tensors["visual_tokens"] = no_visual_tokens(1, node.shape[-1], _DTYPES[node.type])
        if any(node.name == "dense_columns" for session in self.sessions.values() for node in session.get_inputs()):
            tensors["dense_columns"] = dense_columns(1, self.width())
        return tensors

    def width(self) -> int:
        """Width of the hidden states, which the heads read."""
        found = [node for session in self.sessions.values() for node in session.get_inputs()]
        return next(int(node.shape[-1]) for node in found if node.name == "hidden_states")

    def run(self, tensors: dict[str, Array], path: str) -> dict[str, Array]:
        """Run the steps of a path."""
        for step, paths in self.order.items():
            if path in paths and step in self.sessions:
                session = self.sessions[step]
                names = [node.name for node in session.get_outputs()]
                feed = {node.name: tensors[node.name] for node in session.get_inputs()}
                tensors.update(zip(names, session.run(names, feed), strict=True))
        return tensors


class Peer:
    """The operations, by their names."""

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open the sessions."""
        self.graphs = Graphs(Path(request["checkpoint"]), request["threads"])
        return {"versions": {name: version(name) for name in ("onnxruntime", "numpy", "pillow")}}

    def pages(self, request: dict[str, Any]) -> dict[str, Any]:
        """Embed pages."""
        rows = [self.graphs.preparer.image(Path(file).read_bytes()) for file in request["files"]]
        return self._embed(rows, "image", request)

    def queries(self, request: dict[str, Any]) -> dict[str, Any]:
        """Embed queries."""
        rows = [self.graphs.preparer.text(text.encode(), "query") for text in request["texts"]]
        return self._embed(rows, "text", request)

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """From bytes to patches, in so many threads."""
        files = [Path(file).read_bytes() for file in request["files"]]
        with ThreadPoolExecutor(request["threads"]) as pool:
            self.graphs.preparer.image(files[0])
            start = time.perf_counter()
            list(pool.map(self.graphs.preparer.image, files))
            return {"seconds": time.perf_counter() - start}

    def _embed(self, rows: Sequence[Row], path: str, request: dict[str, Any]) -> dict[str, Any]:
        prepared = [self.graphs.tensors(row, path) for row in rows]
        start = time.perf_counter()
        done = [self.graphs.run(tensors, path) for tensors in prepared]
        seconds = time.perf_counter() - start
        np.savez(request["vectors"], *[_vectors(tensors) for tensors in done])
        return {"seconds": seconds, "vectors": request["vectors"]}


def _vectors(tensors: dict[str, Array]) -> Array:
    if "late" in tensors:
        late: Array = tensors["late"][0][tensors["late_mask"][0] > 0]
        return late
    return tensors["dense"]


def main() -> None:
    """Answer line by line. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            start = time.perf_counter()
            answer = getattr(peer, request["op"])(request)
            answer.setdefault("seconds", time.perf_counter() - start)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
