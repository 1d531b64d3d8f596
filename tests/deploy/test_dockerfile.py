"""The parts of the images, held against the repository: only `docker build` itself is left to go wrong."""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.dockerfile import ROOT, TARGETS, Stage, applies, normalised, read, requirements
from periscope_serve import command, environment

DEFAULTS, STAGES = read()
PROJECT = "periscope-retrieval"


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Stage:
    return STAGES[request.param]


def test_stages() -> None:
    assert list(STAGES) == ["wheel", *TARGETS]


def test_base_images_have_fixed_tags() -> None:
    assert {stage.base.partition(":")[2] for stage in STAGES.values()} == {f"${{{name}}}" for name in DEFAULTS}
    assert all(re.match(r"\d+\.\d+", tag) for tag in DEFAULTS.values())


def test_the_cpu_image_has_a_python_that_the_embedded_triton_runs_under() -> None:
    assert DEFAULTS["PYTHON_TAG"].startswith(f"{TARGETS['cpu']}.")
    assert tuple(map(int, TARGETS["cpu"].split("."))) in environment.VERSIONS


def test_every_source_exists_and_dockerignore_lets_exactly_those_in() -> None:
    sources = {source for stage in STAGES.values() for source in stage.sources()}
    assert [source for source in sorted(sources) if not (ROOT / source).exists()] == []

    everything, *lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    assert everything == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == sources


def test_the_wheel_has_every_package_but_those_that_nobody_serves_with() -> None:
    folders = {path.parents[1].name for path in ROOT.glob("*/periscope_*/__init__.py")}
    assert folders - {"demo", "perf", "testing"} == {
        source for source in STAGES["wheel"].sources() if (ROOT / source).is_dir()
    }


def test_not_root(target: Stage) -> None:
    # By number: Kubernetes cannot tell from a name.
    (user,) = target.arguments("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_ports_are_the_default_ones(target: Stage) -> None:
    defaults = serve_arguments(["/models"])
    assert target.arguments("EXPOSE") == [f"{defaults.http_port} {defaults.grpc_port} {defaults.metrics_port}"]


def test_the_cpu_image_runs_periscope_serve_for_everybody() -> None:
    assert STAGES["cpu"].command("ENTRYPOINT") == ["periscope"]
    subcommand, *words = STAGES["cpu"].command("CMD")
    assert subcommand == "serve"
    assert serve_arguments(words).host == "0.0.0.0"


def test_the_gpu_image_runs_the_script_that_it_copies() -> None:
    (copied,) = STAGES["gpu"].arguments("COPY")
    assert copied.endswith(f"/bin/{STAGES['gpu'].command('CMD')[0]}")


def serve_arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(("name", "python"), TARGETS.items())
def test_every_requirement_is_one_version_and_that_of_the_constraints(name: str, python: str) -> None:
    pins = requirements(f"deploy/requirements-{name}.txt", python)
    assert [str(pin) for pin in pins.values() if not re.fullmatch(r"==[^*]+", str(pin.specifier))] == []

    constraints = requirements("constraints.txt", python)
    both = pins.keys() & constraints.keys()
    assert {pin: str(pins[pin].specifier) for pin in both} == {pin: str(constraints[pin].specifier) for pin in both}


def test_the_gpu_image_has_what_preparation_imports() -> None:
    distributions = importlib.metadata.packages_distributions()
    files = [file for root in ("runtime", "model_repository") for file in (ROOT / root).rglob("*.py")]
    imported = {name for file in files for name in imports(file) if not name.startswith("periscope_")}
    # The image's own.
    imported -= {"triton_python_backend_utils", *sys.stdlib_module_names}
    needed = {normalised(distributions[name][0]) for name in imported}
    assert needed == set(requirements("deploy/requirements-gpu.txt", TARGETS["gpu"]))


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module.partition(".")[0]


def test_both_images_have_one_numpy_that_the_serve_extra_allows() -> None:
    (allowed,) = [one for one in required_by(PROJECT, "serve", TARGETS["cpu"]) if one.name == "numpy" and one.marker]
    for name, python in TARGETS.items():
        pin = requirements(f"deploy/requirements-{name}.txt", python)["numpy"]
        assert allowed.specifier.contains(str(pin.specifier).removeprefix("=="))


def test_the_cpu_image_has_all_that_its_packages_require() -> None:
    """From the extra `serve` on, through every package that is installed here in the image's version."""
    pins = requirements("deploy/requirements-cpu.txt", TARGETS["cpu"])
    versions = {name: str(pin.specifier).removeprefix("==") for name, pin in pins.items()}
    installed = {normalised(one.name): one.version for one in importlib.metadata.distributions()}
    seen: set[tuple[str, str]] = set()
    wanted = [(PROJECT, "serve")]
    wrong = []
    while wanted:
        package, extra = wanted.pop()
        seen.add((package, extra))
        for requirement in required_by(package, extra, TARGETS["cpu"]):
            name = normalised(requirement.name)
            if not (name in versions and requirement.specifier.contains(versions[name], prereleases=True)):
                wrong.append(f"{package} requires {requirement}, deploy/requirements-cpu.txt has {versions.get(name)}")
            elif installed.get(name) == versions[name]:
                wanted += {(name, one) for one in ("", *requirement.extras)} - seen
    assert wrong == []
    assert {("tritonclient", "http"), ("nvidia-pytriton", ""), ("onnxruntime", "")} <= seen


def required_by(package: str, extra: str, python: str) -> list[Requirement]:
    lines = importlib.metadata.requires(package) or []
    return [requirement for requirement in map(Requirement, lines) if applies(requirement, python, extra)]
