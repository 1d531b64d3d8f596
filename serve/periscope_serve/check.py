"""Checking a model repository before Triton sees it.

Some of what is wrong with a repository makes Triton hang without a word (a missing model.py), some only shows after
minutes of loading. All of it is found here, at once, from the files alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from periscope_serve import ensemble, integrity
from periscope_serve.errors import BadRepositoryError
from periscope_serve.external_data import NotOnnxError, external_files
from periscope_serve.repository import CONFIG, ENSEMBLE, Finding, Model, read

# A model's path goes through a shell, unquoted, to the process that runs it.
SAFE_NAME = re.compile(r"[\w.+@%=:,-]+")


def require_sound(repositories: Sequence[Path], backends: Collection[str], verify_files: bool = False) -> None:
    """Raise `BadRepositoryError` with every finding; files are compared with their export's by size, or by digest."""
    findings = check(repositories, backends)
    for repository in repositories:
        findings += integrity.check_sizes(repository)
        findings += integrity.check_digests(repository) if verify_files else []
    if findings:
        listed = "\n".join(f"  {finding}" for finding in findings)
        raise BadRepositoryError(f"the repository would not load:\n{listed}")


def check(repositories: Sequence[Path], backends: Collection[str] | None = None) -> list[Finding]:
    """Everything that would keep the repositories from loading on a server that has `backends` (None: any).

    Raises: BadRepositoryError where there is nothing to look at, or this user may not.
    """
    try:
        return _check(repositories, backends)
    except OSError as error:
        raise BadRepositoryError(
            f"{error.filename} cannot be read: {error.strerror}. Let the user that runs this read the whole repository "
            f"(here the one with the number {os.geteuid()}; 1000 in the images)"
        ) from None


def _check(repositories: Sequence[Path], backends: Collection[str] | None) -> list[Finding]:
    for repository in repositories:
        if not repository.is_dir():
            raise BadRepositoryError(
                f"there is no folder {repository}. Pass the folder that `periscope export` wrote, or another one that "
                "holds one folder per model"
            )
    models, findings = read(repositories)
    if not models and not findings:
        where = ", ".join(map(str, repositories))
        raise BadRepositoryError(
            f"there is no model in {where}. Pass the folder that `periscope export` wrote, or another one that holds "
            "one folder per model"
        )
    for model in models.values():
        findings += _check_model(model, backends)
        if model.backend == ENSEMBLE:
            findings += ensemble.check(model, models)
    return findings


def _check_model(model: Model, backends: Collection[str] | None) -> Iterator[Finding]:
    if not SAFE_NAME.fullmatch(model.name):
        yield Finding(
            model.name,
            "its name holds characters that a shell reads in its own way",
            "Use letters, digits, '_', '-' and '.'",
        )
    if model.config.name not in ("", model.name):
        yield Finding(
            model.name,
            f"{CONFIG} calls it '{model.config.name}'",
            "Name the folder and the config alike, or drop `name`",
        )
    if not model.backend:
        yield Finding(
            model.name,
            f"neither {CONFIG} nor a model file says which backend runs it",
            f"Add a {CONFIG} with `backend`, or move the folder out: Triton takes every folder here for a model",
        )
        return
    if backends is not None and model.backend != ENSEMBLE and model.backend not in backends:
        yield Finding(
            model.name,
            f"it needs the backend '{model.backend}', and the embedded server has only {', '.join(backends)}",
            "Serve it with NVIDIA's Triton container, or export it for onnxruntime",
        )
    if not model.served:
        remedy = "Make an empty folder 1" if model.backend == ENSEMBLE else "Put the model file into a folder 1"
        yield Finding(model.name, "it has no version folder", f"{remedy} beside {CONFIG}")
    for version in model.served:
        yield from _check_version(model, version)


def _check_version(model: Model, version: int) -> Iterator[Finding]:
    folder = model.version_folder(version)
    if not folder.is_dir():
        yield Finding(
            model.name,
            f"its version policy asks for version {version}, which is missing",
            "Add it or change the policy",
        )
        return
    if not model.model_file or model.backend == ENSEMBLE:
        return
    file = folder / model.model_file
    if model.backend == "onnxruntime" and file.is_dir():
        file /= "model.onnx"
    if not file.is_file():
        yield Finding(
            model.name,
            f"{file.relative_to(model.folder)} is missing",
            "Export the model again, or set `default_model_filename` to the file that is there",
        )
    elif file.suffix == ".onnx":
        yield from _check_onnx(model, file)


def _check_onnx(model: Model, file: Path) -> Iterator[Finding]:
    try:
        needed = external_files(file)
    except NotOnnxError as error:
        yield Finding(
            model.name,
            f"{file.relative_to(model.folder)} is not an ONNX model, {error}",
            "Copy the file itself (not a Git LFS pointer to it), or export the model again",
        )
        return
    for location, size in needed.items():
        data = file.parent / location
        name = data.relative_to(model.folder) if data.is_relative_to(model.folder) else data
        # Not Path.is_file, which raises for a name that no file can have: those come out of damaged graphs.
        if not os.path.isfile(data):
            yield Finding(model.name, f"the weights file {name} is missing", f"Copy it beside {file.name}")
        elif data.stat().st_size < size:
            yield Finding(
                model.name,
                f"the weights file {name} has {data.stat().st_size} bytes of at least {size}",
                "It was cut short: copy it again",
            )
