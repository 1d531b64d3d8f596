"""The sides of a comparison on a GPU: an exported repository, and the published code. Both embed one evaluation set.

Legend: Q queries, N pages, T tokens, K dimensions of a late vector, D of a dense one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from periscope_demo.evaluation import EvaluationSet
from periscope_export.engines import ENGINES
from periscope_export.engines.engine import GpuEngine
from periscope_export.fidelity import record as fidelity
from periscope_runtime.collate import collate
from periscope_runtime.completion import Wanted, completed
from periscope_runtime.prepare import Preparer

NAME = "demo"
BATCH = 4
GPU_ENGINES = {name: engine for name, engine in ENGINES.items() if isinstance(engine, GpuEngine)}

# Runs one step on the tensors that the step before gave, wherever those are.
Steps = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Vectors:
    """Late [T, K] and dense [D] vectors of all queries, then of all pages, and the scores [Q, N] that rank them."""

    late: list[Any]
    dense: list[Any]
    scores: dict[str, Any]


class Side(Protocol):
    """One of those that are compared."""

    engine: str
    precision: str
    device: str
    versions: str

    def vectors(self) -> Vectors:
        """Embed everything, in batches, and rank."""

    def milliseconds(self, path: str, rows: int, rounds: int) -> float:
        """Return the median time of one run of `rows` rows from prepared tensors to vectors, path "text" or "image"."""


class Served:
    """An exported repository and two ways to run its steps: on arrays, to compare; and as fast as it goes, to time."""

    def __init__(self, repository: Path, wanted: EvaluationSet, run: fidelity.Run, timed: Steps, device: str) -> None:
        report = fidelity.read_fidelity(repository)
        self.engine, self.precision = report["engine"], report["precision"]
        self.device = _device(device, report["versions"]["machine"])
        self.versions = _named({name: report["versions"][name] for name in sorted(report["versions"])})
        self._order = report["order"]
        self._placed_on = device
        self._run, self._timed = run, timed
        self._width = fidelity.read_golden(repository / fidelity.GOLDEN_FILE)["text"]["visual_tokens"].shape[-1]
        preparer = Preparer(repository / f"{NAME}_preprocess_text" / "1")
        self._buckets = preparer.preparation.buckets
        self._items = {
            "text": [preparer.text(query.text.encode()) for query in wanted.queries],
            "image": [preparer.image(page.file()) for page in wanted.pages],
        }

    def vectors(self) -> Vectors:
        """Embed everything, in batches, and rank."""
        # Of one length all of them, so that one run of MaxSim ranks them.
        found = {path: self._embedded(path, self._batch(path, len(items))) for path, items in self._items.items()}
        golden: fidelity.Golden = {path: dict(rows) for path, rows in found.items()}
        late_QN = fidelity.run_step("maxsim", "search", golden, self._run)["score"]
        dense_QN = found["text"]["dense"] @ found["image"]["dense"].T
        return Vectors(
            [found[path]["late"][found[path]["late_mask"] > 0] for path in ("text", "image")],
            [found[path]["dense"] for path in ("text", "image")],
            {"late": late_QN, "dense": dense_QN},
        )

    def milliseconds(self, path: str, rows: int, rounds: int) -> float:
        """Return the median time of one run."""
        batch = {name: self._placed(array) for name, array in self._batch(path, rows).items()}
        return _median_ms(lambda: self._through(path, batch, self._timed), rounds)

    def _batch(self, path: str, rows: int) -> dict[str, Any]:
        """Join the first items of a path, padded as the server pads them."""
        tensors = collate(self._items[path][:rows], self._buckets)
        return completed(tensors, {"visual_tokens": Wanted(np.float32, self._width)}, 0)

    def _embedded(self, path: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
        count = len(tensors["input_ids"])
        batches = [
            self._through(path, {name: array[first : first + BATCH] for name, array in tensors.items()}, self._run)
            for first in range(0, count, BATCH)
        ]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in ("late", "late_mask", "dense")}

    def _through(self, path: str, tensors: Mapping[str, Any], run: Steps) -> dict[str, Any]:
        tensors = dict(tensors)
        for step, paths in self._order.items():
            if path in paths:
                tensors.update(run(step, tensors))
        return tensors

    def _placed(self, array: Any) -> Any:
        if self._placed_on == "cpu":
            return array
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._placed_on)


class Published:
    """colpali-engine's model on transformers, as `reference.py` has it, in bf16 on a device."""

    engine = "colpali-engine"
    precision = "bf16"

    def __init__(self, checkpoint: Path, wanted: EvaluationSet, device: str = "cuda") -> None:
        # Here, because the rest of this file needs neither colpali-engine nor transformers.
        from periscope_testing.colqwen2.reference import ColQwen2Reference

        self.device = _device(device, "cpu")
        self.versions = _named({name: version(name) for name in ("colpali-engine", "torch", "transformers")})
        self._reference = ColQwen2Reference(checkpoint, device=device, dtype=torch.bfloat16)
        self._queries = [query.text for query in wanted.queries]
        self._pages = [page.image for page in wanted.pages]

    def vectors(self) -> Vectors:
        """Embed everything, in batches, and rank."""
        inputs = self._reference
        texts = _batches(self._queries, lambda batch: inputs.late_and_dense(inputs.query_inputs(batch)))
        pages = _batches(self._pages, lambda batch: inputs.late_and_dense(inputs.image_inputs(batch)))
        late = [[late_TK for late_TK, _ in rows] for rows in (texts, pages)]
        dense = [np.stack([dense_D for _, dense_D in rows]) for rows in (texts, pages)]
        return Vectors(
            [np.concatenate(rows) for rows in late],
            dense,
            {"late": inputs.maxsim(*late), "dense": dense[0] @ dense[1].T},
        )

    def milliseconds(self, path: str, rows: int, rounds: int) -> float:
        """Return the median time of one run."""
        inputs = (
            self._reference.query_inputs(self._queries[:rows])
            if path == "text"
            else self._reference.image_inputs(self._pages[:rows])
        )
        placed = self._reference.placed(inputs)

        def run() -> None:
            self._reference.forward(placed)
            if self._reference.device == "cuda":
                torch.cuda.synchronize()

        return _median_ms(run, rounds)


def on_cpu(repository: Path, wanted: EvaluationSet) -> Served:
    """Serve the graphs of a repository in ONNX Runtime on the CPU."""
    run = fidelity.graph_runner(repository, NAME, keep=True)
    return Served(repository, wanted, run, run, "cpu")


def on_gpu(repository: Path, wanted: EvaluationSet, name: str) -> Served:
    """Serve a repository in one of the `GPU_ENGINES`."""
    engine, precision = GPU_ENGINES[name], fidelity.read_fidelity(repository)["precision"]
    run, timed = engine.run(repository, NAME, precision), engine.on_device(repository, NAME)
    return Served(repository, wanted, run, timed, "cuda")


def _batches(items: list[Any], embed: Callable[[list[Any]], list[Any]]) -> list[Any]:
    return [row for first in range(0, len(items), BATCH) for row in embed(items[first : first + BATCH])]


def _median_ms(run: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[2:])  # the first runs warm up


def _device(device: str, machine: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else machine


def _named(versions: Mapping[str, str]) -> str:
    return " ".join(f"{name} {found}" for name, found in versions.items() if name not in ("python", "machine"))
