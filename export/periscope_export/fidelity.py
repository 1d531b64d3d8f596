"""How close the graphs are to the fp32 towers, on fixed inputs.

At export the towers' tensors are kept as `golden.npz`; the graphs run on the same inputs, each step alone and the whole
chain, and `fidelity.json` says how far they are apart. `periscope verify` repeats this anywhere, without torch and
without the checkpoint. Legend: B rows, T tokens, K dimensions of a late vector, Q queries, N pages.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from periscope_export.errors import ExportError
from periscope_export.frugal_session import frugal_session

FIDELITY_FILE = "fidelity.json"
GOLDEN_FILE = "golden.npz"

Array = npt.NDArray[Any]
# Tensors by name, for each path of items: "text", "image", "video", "rerank", and "search" where vectors meet.
Golden = dict[str, dict[str, Array]]
# A JSON object.
Measured = dict[str, Any]
# Runs one step on tensors by name.
Run = Callable[[str, Mapping[str, Array]], dict[str, Array]]

_HALF = np.float16

_PACKAGES = (
    *("periscope-retrieval", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("numpy", "pillow", "tokenizers"),
)


def graph_runner(repository: Path, retriever: str, keep: bool = False) -> Run:
    """Return a function that runs the graphs of a repository in ONNX Runtime; sessions are opened when needed.

    One graph is in memory at a time, unless they are to be kept.
    """
    sessions: dict[str, Any] = {}

    def run(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        if step not in sessions:
            path = repository / f"{retriever}_{step}" / "1" / "model.onnx"
            if not path.is_file():
                raise ExportError(
                    f"verify: {path.parent.parent.name} has no 1/model.onnx. Export the checkpoint again."
                )
            if not keep:
                sessions.clear()
            sessions[step] = frugal_session(path)
        session = sessions[step]
        names = [output.name for output in session.get_outputs()]
        # Golden tensors are float32, graphs may be of another precision.
        feed = {
            node.name: np.ascontiguousarray(tensors[node.name], _HALF if node.type == "tensor(float16)" else None)
            for node in session.get_inputs()
        }
        return dict(zip(names, session.run(None, feed), strict=True))

    return run


def run_step(step: str, path: str, tensors: Golden, run: Run) -> dict[str, Array]:
    """Run one step on a path's tensors, add what comes out to them and return it."""
    if path == "search":
        tensors[path] = {
            "query_late": tensors["text"]["late"],
            "query_mask": tensors["text"]["late_mask"],
            "document_late": tensors["image"]["late"],
            "document_mask": tensors["image"]["late_mask"],
        }
    outputs = run(step, tensors[path])
    tensors[path].update(outputs)
    return outputs


# Graphs that overflow give inf and nan; `check` refuses them.
@np.errstate(invalid="ignore", over="ignore")
def measure(golden: Golden, steps: Mapping[str, Iterable[str]], run: Run) -> Measured:
    """Compare `run` with golden tensors: each step on the towers' inputs, then the whole chain on its own outputs.

    `steps` maps each step, in order, to the paths that it serves.
    """
    chained: Golden = {path: dict(tensors) for path, tensors in golden.items()}
    distances: dict[str, dict[str, float]] = {}
    for step, paths in steps.items():
        pairs: list[tuple[Array, Array]] = []
        for path in paths:
            run_step(step, path, chained, run)
            pairs += [(found, golden[path][name]) for name, found in run(step, golden[path]).items()]
        distances[step] = distance(pairs)
    return {
        "steps": distances,
        "vectors": distance(
            [
                (chained[path][name], golden[path][name])
                for path in golden
                for name in ("late", "dense")
                if name in golden[path]
            ]
        ),
        "retrieval": _agreement(_scores(chained), _scores(golden)),
    }


def _scores(tensors: Golden) -> Array:
    """Return what documents are ranked by [Q, N]: a reranker's scores, MaxSim, or cosines of dense vectors."""
    if "rerank" in tensors:
        return tensors["rerank"]["score"].T
    if "search" in tensors:
        return tensors["search"]["score"]
    queries, documents = (tensors[path]["dense"] for path in (next(iter(tensors)), list(tensors)[-1]))
    scores_QN: Array = queries @ documents.T
    return scores_QN


def check(measured: Measured, tolerance: float) -> None:
    """Raise `ExportError` when the vectors or the scores are further from the towers' than the recipe allows."""
    found = {
        "vectors": measured["vectors"]["max_abs_error"],
        "scores": measured["retrieval"]["max_abs_error"],
    }
    # Not "greater than": a nan must not pass.
    wrong = [f"{name} differ by {error:.2e}" for name, error in found.items() if not error <= tolerance]
    if wrong:
        raise ExportError(
            f"fidelity: {'; '.join(wrong)}, the recipe allows {tolerance:.0e}. These graphs would serve other vectors "
            "than the checkpoint's: export again, and if it stays, report the versions of torch and onnxruntime."
        )


def write_golden(path: Path, golden: Golden) -> None:
    """Write golden tensors; each is called `path/name`."""
    arrays: dict[str, Any] = {
        f"{key}/{name}": array for key, tensors in golden.items() for name, array in tensors.items()
    }
    np.savez_compressed(path, **arrays)


def read_golden(path: Path) -> Golden:
    """Read what `write_golden` wrote."""
    golden: Golden = {}
    with np.load(path) as file:
        for key in file.files:
            group, _, name = key.partition("/")
            golden.setdefault(group, {})[name] = file[key]
    return golden


def versions() -> dict[str, str]:
    """Return the versions of everything that takes part, and the processor's architecture."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def stamp() -> str:
    """Return the time of a measurement, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_fidelity(repository: Path) -> Measured:
    """Read `fidelity.json` of a repository. Raises `ExportError` where there is none."""
    path = repository / FIDELITY_FILE
    if not path.is_file():
        raise ExportError(
            f"verify: {repository.name} holds no {FIDELITY_FILE}, so it is no repository that periscope exported."
        )
    data: Measured = json.loads(path.read_text(encoding="utf-8"))
    return data


def file_digests(repository: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a repository but `fidelity.json` itself and what Python leaves behind."""
    digests = {}
    for path in _files(repository):
        with path.open("rb") as file:
            digests[path.relative_to(repository).as_posix()] = _sha256(file)
    return digests


def file_sizes(repository: Path) -> dict[str, int]:
    """Return the bytes of the same files: `periscope serve` has time for these."""
    return {path.relative_to(repository).as_posix(): path.stat().st_size for path in _files(repository)}


def _files(repository: Path) -> list[Path]:
    return [
        path
        for path in sorted(repository.rglob("*"))
        if path.is_file() and path.name != FIDELITY_FILE and path.parent.name != "__pycache__"
    ]


def check_files(repository: Path, recorded: Mapping[str, str]) -> None:
    """Raise `ExportError` naming every file that is missing, changed or new since the export."""
    found = file_digests(repository)
    problems = [
        *(f"{name} is missing" for name in recorded.keys() - found.keys()),
        *(f"{name} is new" for name in found.keys() - recorded.keys()),
        *(f"{name} has changed" for name in recorded.keys() & found.keys() if recorded[name] != found[name]),
    ]
    if problems:
        raise ExportError(
            f"verify: this is not what was exported: {'; '.join(sorted(problems))}. "
            "Export the checkpoint again, or restore the files."
        )


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def distance(pairs: Iterable[tuple[Array, Array]]) -> dict[str, float]:
    """Return the largest absolute error and the smallest cosine of a row; rows of zeros (padding) have no cosine."""
    errors, cosines = [0.0], [1.0]
    for found, wanted in pairs:
        found_64, wanted_64 = found.astype(np.float64), wanted.astype(np.float64)
        errors.append(float(np.abs(found_64 - wanted_64).max(initial=0.0)))
        norms = np.linalg.norm(found_64, axis=-1) * np.linalg.norm(wanted_64, axis=-1)
        cosine = (found_64 * wanted_64).sum(-1)[norms > 0] / norms[norms > 0]
        cosines.append(float(cosine.min(initial=1.0)))
    return {"max_abs_error": float(np.max(errors)), "min_cosine": float(np.min(cosines))}


def _agreement(found_QN: Array, wanted_QN: Array) -> dict[str, float]:
    """Compare rankings: largest score error, pairs of pages in the same order (Kendall's tau), same first page."""
    first, second = np.triu_indices(wanted_QN.shape[1], k=1)
    found_order = np.sign(found_QN[:, first] - found_QN[:, second])
    wanted_order = np.sign(wanted_QN[:, first] - wanted_QN[:, second])
    return {
        "queries": int(wanted_QN.shape[0]),
        "pages": int(wanted_QN.shape[1]),
        "max_abs_error": float(np.abs(found_QN - wanted_QN).max()),
        "kendall_tau": float((found_order * wanted_order).mean()),
        "same_first_page": float((found_QN.argmax(1) == wanted_QN.argmax(1)).mean()),
    }
