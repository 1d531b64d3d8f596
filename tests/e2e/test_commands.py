"""From the shell: `periscope serve` and `periscope search` on a PDF, by the full and by the bare install."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from e2e.exported import Exported
from periscope_client import pdf_pages
from periscope_demo.document import demo_set, make_document
from periscope_testing.colqwen2.reference import ColQwen2Reference

ROOT = Path(__file__).parents[2]
QUERY = demo_set().queries[0].text
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_document(tmp_path_factory.mktemp("document") / "report.pdf")


@pytest.fixture(scope="module")
def grpc_url(first: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`periscope serve` as a user starts it; the address is in its one line."""
    log = (tmp_path_factory.mktemp("serve") / "log").open("w")
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    command: list[str | Path] = [BIN / "periscope", "serve", first.repository, *ports]
    with log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        match = re.match(r"ready grpc=(\S+) http=\S+ metrics=\S+ models=", ready)
        assert match, ready
        yield match[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def published_order(document: Path, first_reference: ColQwen2Reference) -> list[int]:
    """Page numbers, best first, by the published implementation."""
    pages = [first_reference.images([page.image])[0] for page in pdf_pages(document)]
    scores = first_reference.maxsim([first_reference.queries([QUERY])[0]], pages)[0]
    return [int(page) + 1 for page in np.argsort(-scores)]


def search(periscope: Path, url: str, document: Path, **environment: str) -> list[int]:
    """Page numbers as `periscope search` prints them."""
    command: list[str | Path] = [
        periscope,
        "search",
        QUERY,
        document,
        "--url",
        url,
        "--model",
        "colqwen2",
        "--top-k",
        "20",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["rank", "score", "page", "file"]
    return [int(line.split()[2]) for line in lines]


def test_search_ranks_a_pdf_as_the_published_model_does(
    grpc_url: str, document: Path, published_order: list[int]
) -> None:
    assert search(BIN / "periscope", grpc_url, document) == published_order


@pytest.fixture(scope="module")
def bare_install(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The light client in an environment of its own, with today's numpy; returns its bin folder."""
    folder = tmp_path_factory.mktemp("bare")
    # A copy, so that building leaves nothing in the working tree.
    ignored = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "tests", "demo-output", "demo-training"
    )
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip: list[str | Path] = [folder / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "numpy>=2", folder / "source"], check=True, capture_output=True)
    return folder / "venv" / "bin"


def test_the_bare_install_is_the_light_client(bare_install: Path) -> None:
    code = "import importlib.util as u, numpy; print(numpy.__version__, *[n for n in %r if u.find_spec(n)])"
    heavy = ["torch", "transformers", "onnxruntime", "pytriton", "tokenizers", "pydantic"]
    printed = subprocess.run(
        [bare_install / "python", "-c", code % heavy], check=True, capture_output=True, text=True
    ).stdout.split()
    assert printed[0].startswith("2.")
    assert printed[1:] == []


def test_the_bare_install_brings_the_command_of_optimum_and_no_optimum(bare_install: Path) -> None:
    code = "from importlib.util import find_spec as f; print(*[bool(f('optimum.commands.' + n)) for n in %r])"
    names = ["register.register_periscope", "optimum_cli"]
    printed = subprocess.run(
        [bare_install / "python", "-c", code % names], check=True, capture_output=True, text=True
    ).stdout.split()
    assert printed == ["True", "False"]


def test_what_a_clone_alone_needs_is_not_installed(bare_install: Path) -> None:
    """Training, weights, checkpoint makers; the pages that `periscope bench` sends are."""
    (packages,) = bare_install.parent.glob("lib/python3*/site-packages")
    installed = {str(path.relative_to(packages)) for path in packages.glob("periscope_*/**/*")}
    assert "periscope_demo/pages/generator.py" in installed
    missing = ("periscope_testing", "periscope_demo/training", "periscope_demo/retriever")
    assert not [path for path in installed if path.startswith(missing) or path.endswith(".safetensors")]


def test_the_bare_install_searches(
    bare_install: Path, grpc_url: str, document: Path, published_order: list[int]
) -> None:
    assert search(bare_install / "periscope", grpc_url, document) == published_order


@pytest.mark.parametrize(("command", "extra"), [("export", "export"), ("serve", "serve"), ("verify", "export")])
def test_the_bare_install_says_what_a_command_needs(bare_install: Path, command: str, extra: str) -> None:
    done = subprocess.run([bare_install / "periscope", command, "x"], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"pip install '.[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
