"""The folder of backends that one server runs with."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

from periscope_serve.environment import Environment

STAND_INS = ("onnxruntime", "openvino")
BACKENDS = ("python", *STAND_INS)
"""The backends the embedded server has; ensembles need none."""


def size(environment: Environment) -> int:
    """The size of the folder in bytes, but for a few thousand."""
    return sum(file.stat().st_size for file in _copied(environment))


def _copied(environment: Environment) -> list[Path]:
    backend = environment.backend
    return [backend / "libtriton_python.so", backend / "triton_python_backend_utils.py", environment.stub]


def assemble(environment: Environment, folder: Path) -> Path:
    """Fill `folder` with private copies of the Python backend and of the stand-ins.

    Copies, not links: Triton refuses a backend library that lies outside its backend directory, and it changes the
    mode of the stub's file when a stub fails its first health check.
    """
    python = folder / "python"
    python.mkdir(parents=True)
    for file in _copied(environment):
        shutil.copy(file, python / file.name)
    for name in STAND_INS:
        (folder / name).mkdir()
        model = resources.files(f"periscope_serve.backends.{name}") / "model.py"
        (folder / name / "model.py").write_text(model.read_text())
    return folder
