"""Imports between the parts, and packages that a light installation must do without."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The packages of the repository and the packages of the repository that each may import.
ALLOWED = {
    "periscope_runtime": set[str](),
    "periscope_repository": {"periscope_runtime"},
    "periscope_serve": {"periscope_runtime"},
    "periscope_client": set[str](),
    # The command that optimum-cli finds; its packages are Optimum's.
    "optimum": {"periscope_client"},
    # `periscope bench` takes pages and queries of the demonstration; `make bench` also exports what it compares.
    "periscope_perf": {
        "periscope_client",
        "periscope_demo",
        "periscope_export",
        "periscope_runtime",
        "periscope_serve",
        "periscope_testing",
    },
    "periscope_export": {"periscope_runtime", "periscope_repository"},
    "periscope_demo": {
        "periscope_client",
        "periscope_export",
        "periscope_repository",
        "periscope_runtime",
        "periscope_serve",
        "periscope_testing",
    },
    # Checkpoints and published code: what is compared with knows nothing of what is compared.
    "periscope_testing": set[str](),
}
# The parts of the export, in the order of the work: each may import those before it.
EXPORT = (
    *("errors", "checkpoint", "recipes", "models", "families", "published", "graphs", "repository", "fidelity"),
    *("engines", "remedies", "request", "exporter", "commands"),
)
ROOTS = ("runtime", "model_repository", "serve", "clients", "perf", "export", "demo", "testing")
FOLDERS = {
    folder.name: folder
    for root in ROOTS
    for pattern in ("periscope_*", "optimum")
    for folder in (ROOT / root).glob(pattern)
    if not folder.suffix  # .egg-info of an installation
}
HEAVY = ("torch", "transformers", "onnx", "pydantic", "yaml", "jinja2")

WALK = """
import importlib, json, pkgutil, sys, types

package = importlib.import_module(sys.argv[1])
names = [module.name for module in pkgutil.walk_packages(package.__path__, sys.argv[1] + ".")]
for name in names:
    importlib.import_module(name)
print(json.dumps({"imported": names, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def test_every_package_has_its_line_here() -> None:
    assert sorted(FOLDERS) == sorted(ALLOWED)


def test_the_harness_imports_no_framework() -> None:
    """Its numbers are of the server: torch beside it would hold memory and threads."""
    code = "import json, sys, periscope_perf.command; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert not {"torch", "transformers", "onnxruntime"} & set(json.loads(done.stdout))


@pytest.mark.parametrize("package", ["periscope_runtime", "periscope_client"])
def test_a_light_package_imports_nothing_heavy(package: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WALK, package], capture_output=True, text=True, check=False, timeout=120, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr

    answer = json.loads(done.stdout)
    assert len(answer["imported"]) >= 3
    assert sorted(set(answer["loaded"]) & set(HEAVY)) == []


def test_verify_needs_no_torch() -> None:
    """It runs where repositories are served."""
    code = "import sys; sys.modules['torch'] = None; import periscope_export.commands.verify"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def modules(file: Path) -> Iterator[tuple[int, str]]:
    """Line and module of every import of a file, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            # `from package import module` names a module as well.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import of a file."""
    return ((line, module.partition(".")[0]) for line, module in modules(file))


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_one_way(package: str) -> None:
    allowed = ALLOWED[package] | {package}
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in sorted(FOLDERS[package].rglob("*.py"))
        for line, name in imported(file)
        if name.startswith("periscope_") and name not in allowed
    ]

    assert wrong == []


@pytest.mark.parametrize(
    "package", ["periscope_runtime", "periscope_client", "periscope_serve", "periscope_repository", "optimum"]
)
def test_a_package_that_is_installed_alone_never_names_a_heavy_import(package: str) -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in sorted(FOLDERS[package].rglob("*.py"))
        for line, name in imported(file)
        if name in HEAVY
    ]

    assert wrong == []


def test_the_parts_of_the_export_are_in_order() -> None:
    folder = FOLDERS["periscope_export"]
    parts = {path.stem for path in folder.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))} - {"__init__"}
    assert sorted(parts) == sorted(EXPORT)
    wrong = [
        f"{file.relative_to(folder)}:{line} imports {part}"
        for place, name in enumerate(EXPORT)
        for file in sorted([*(folder / name).rglob("*.py"), *folder.glob(f"{name}.py")])
        for line, module in modules(file)
        if module.startswith("periscope_export.") and (part := module.split(".")[1]) not in EXPORT[: place + 1]
    ]

    assert wrong == []


def test_the_modules_of_the_client_have_an_order() -> None:
    """No import leads back to its module, one inside a function neither. Those for types alone are left out."""
    folder = FOLDERS["periscope_client"]
    names = {
        ".".join((folder.name, *path.relative_to(folder).with_suffix("").parts)): path for path in folder.rglob("*.py")
    }
    graph = {name: needed(path) & names.keys() - {name} for name, path in names.items()}

    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def needed(file: Path) -> set[str]:
    """Names that a file imports when it runs: modules, and what is in them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    return {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module is not None and id(node) not in for_types
        for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
    }
