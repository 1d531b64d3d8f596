"""The closeness of the graphs to the fp32 towers, on fixed inputs.

At export the towers' tensors are kept as `golden.npz`; the graphs run on the same inputs, each step alone and the whole
chain, and `fidelity.json` says how far they are apart. `periscope verify` repeats this anywhere, without torch and
without the checkpoint. Legend: B rows, T tokens, K dimensions of a late vector, Q queries, N pages.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from periscope_export.errors import ExportError
from periscope_export.fidelity.samples import sample_name
from periscope_export.graphs.session import frugal_session
from periscope_runtime.paths import PATHS

FIDELITY_FILE = "fidelity.json"
GOLDEN_FILE = "golden.npz"

Array = npt.NDArray[Any]
# Tensors by name, for each path by its name (`periscope_runtime.paths`).
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
    if sides := PATHS[path].sides:
        tensors[path] = vectors_that_meet(*(tensors[side.name] for side in sides))
    outputs = run(step, tensors[path])
    tensors[path].update(outputs)
    return outputs


def require_finite(golden: Golden) -> None:
    """Raise `ExportError` where the towers' vectors or scores are no numbers: nothing can be compared with them."""
    for path, tensors in golden.items():
        for name in ("late", "dense", "score"):
            if name in tensors and not np.isfinite(tensors[name]).all():
                row = int(np.argwhere(~np.isfinite(tensors[name]))[0][0])
                raise ExportError(
                    f"fidelity: in fp32 too this checkpoint makes numbers that are not finite, of "
                    f"{sample_name(path, row)} ({name}). It is broken: download it, or train it, again."
                )


def vectors_that_meet(queries: Mapping[str, Array], documents: Mapping[str, Array]) -> dict[str, Array]:
    """Return what MaxSim reads, of the late vectors of texts and pages."""
    return {
        "query_late": queries["late"],
        "query_mask": queries["late_mask"],
        "document_late": documents["late"],
        "document_mask": documents["late_mask"],
    }


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


_RESTORE = "Restore the file, or export the checkpoint again."


def read_fidelity(repository: Path) -> Measured:
    """Read `fidelity.json` of a repository. Raises `ExportError` where there is none, and for one that lacks what
    `verify` compares.
    """
    path = repository / FIDELITY_FILE
    if not path.is_file():
        raise ExportError(
            f"verify: {repository.name} holds no {FIDELITY_FILE}, so it is no repository that periscope exported."
        )
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"verify: {FIDELITY_FILE} is not JSON ({error}). {_RESTORE}") from error
    sections = data if isinstance(data, dict) else {}
    if lacking := [name for name in ("files", "order", "measured", "tolerance") if not sections.get(name)]:
        raise ExportError(f"verify: {FIDELITY_FILE} says nothing of {', '.join(lacking)}. {_RESTORE}")
    measured: Measured = data
    return measured


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
