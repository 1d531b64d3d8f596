"""The light client under the Pythons that the embedded Triton cannot run under, where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from periscope_client import Retriever
from periscope_serve.server import Server

ROOT = Path(__file__).resolve().parents[2]

# The client, and what the tests of this folder import: the server's modules, which do not start one there.
PARTS = ("clients", "serve", "runtime")

# Those modules that have tests which need no server; the others would skip all of theirs.
UNIT_TESTS = (
    "contract",
    "documents",
    "embeddings",
    "heat",
    "items",
    "maxsim",
    "public_surface",
    "timeout",
    "transport",
)

BEFORE_313 = " python_version < '3.13'"

PROGRAM = """
import sys
import numpy
from periscope_client import Retriever, pdf_pages

output, pdf, *urls = sys.argv[1:]
vectors = {}
for protocol, url in zip(("grpc", "http"), urls):
    with Retriever(url, "rich", protocol=protocol) as retriever:
        vectors[protocol + "_texts"] = retriever.embed_text(["a", "b"]).dense_vectors()
        vectors[protocol + "_pages"] = retriever.embed_image(pdf_pages(pdf), ["one", None, "three"]).dense_vectors()
        vectors[protocol + "_scores"] = retriever.rerank("a", ["b", "abc"]).scores
numpy.savez(output, **vectors)
"""


def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11 on
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


def interpreter(version: str) -> str | None:
    """A Python of that version which runs: on PATH, or one of pyenv's, whose shims run only where it is chosen."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python{version}"), *pyenv.glob(f"versions/{version}.*/bin/python{version}")]
    for path in map(str, filter(None, found)):
        if subprocess.run([path, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0:
            return path
    return None


@pytest.mark.parametrize("version", ["3.13", "3.14"])
def test_tests_and_vectors(version: str, server: Server, pdf: Path, tmp_path: Path) -> None:
    """The unit tests pass, and the vectors are those that this Python gets of the same server."""
    found = interpreter(version)
    if found is None:
        pytest.skip(f"Python {version} is not installed here")
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([found, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--no-input", "--disable-pip-version-check"]
    wanted = [*project()["dependencies"], "hypothesis", "pytest", "pytest-timeout"]
    install = [*pip, "install", "--no-compile", "--only-binary", ":all:"]
    subprocess.run([*install, *wanted], check=True)
    subprocess.run([*install, "--no-deps", "tokenizers"], check=True)  # which the server's modules import

    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV"))}
    environment = {
        **clean,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in PARTS),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    modules = [str(ROOT / "tests" / "client" / f"test_{name}.py") for name in UNIT_TESTS]
    run = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *modules]
    tests = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert tests.returncode == 0, tests.stdout[-3000:]

    output = tmp_path / "vectors.npz"
    run = [str(python), "-W", "error", "-c", PROGRAM, str(output), str(pdf), server.grpc_url, server.http_url]
    subprocess.run(run, env=environment, check=True)
    theirs = np.load(output)
    with Retriever(server.grpc_url, "rich") as retriever:
        for protocol in ("grpc", "http"):
            texts = retriever.embed_text(["a", "b"]).dense_vectors()
            assert np.array_equal(theirs[f"{protocol}_texts"], texts)
            assert np.array_equal(theirs[f"{protocol}_scores"], retriever.rerank("a", ["b", "abc"]).scores)
            assert theirs[f"{protocol}_pages"].shape == (3, 4)
            assert np.isfinite(theirs[f"{protocol}_pages"]).all()


def test_what_the_light_client_is_made_of_has_no_upper_bound() -> None:
    """The bound on Python is the embedded Triton's, so it stands on its packages alone."""
    assert project()["requires-python"] == ">=3.10"
    serve = project()["optional-dependencies"]["serve"]
    assert [one.split(";")[1] for one in serve if one.startswith(("numpy", "nvidia-pytriton"))] == [BEFORE_313] * 2
    assert not [one for one in project()["dependencies"] if "<" in one or ";" in one]
