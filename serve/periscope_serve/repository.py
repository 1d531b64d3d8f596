"""A Triton model repository as it lies on disk, read as Triton reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

CONFIG = "config.pbtxt"
ENSEMBLE = "ensemble"

MODEL_FILES = {"python": "model.py", "onnxruntime": "model.onnx", "tensorrt": "model.plan", "openvino": "model.xml"}
"""The file each backend looks for in a version folder, unless the config names another."""

_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "ensemble": ENSEMBLE}


class Finding(NamedTuple):
    """Something that would keep a model from loading.

    model: its name.
    problem: without a full stop.
    remedy: a sentence.
    """

    model: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"model '{self.model}': {self.problem}. {self.remedy}"


class Tensor(NamedTuple):
    """A tensor of a model config."""

    data_type: str
    optional: bool
    dims: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """One model of a repository."""

    name: str
    folder: Path
    config: Any
    versions: tuple[int, ...]

    @property
    def backend(self) -> str:
        """The engine of the model: "ensemble", a backend's name, or "" where neither config nor files tell."""
        if self.config.HasField("ensemble_scheduling"):
            return ENSEMBLE
        named = self.config.backend or _PLATFORMS.get(self.config.platform, self.config.platform)
        return named or next((backend for backend, file in MODEL_FILES.items() if self._has(file)), "")

    @property
    def is_complete(self) -> bool:
        """Whether the config names inputs and outputs, so that no backend has anything to fill in."""
        return bool(self.config.input) and bool(self.config.output)

    @property
    def served(self) -> tuple[int, ...]:
        """The versions the config's version policy selects; one that is asked for and missing is among them."""
        policy = self.config.version_policy
        if policy.HasField("specific"):
            return tuple(policy.specific.versions)
        if policy.HasField("all"):
            return self.versions
        return self.versions[-(policy.latest.num_versions or 1) :]

    @property
    def model_file(self) -> str:
        """The name of the model's file in a version folder, "" where it has none."""
        return self.config.default_model_filename or MODEL_FILES.get(self.backend, "")

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The inputs the config names."""
        return _tensors(self.config.input)

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs the config names."""
        return _tensors(self.config.output)

    def version_folder(self, version: int) -> Path:
        """The folder of a version's files."""
        return self.folder / str(version)

    def _has(self, file: str) -> bool:
        return any((self.version_folder(version) / file).exists() for version in self.versions)


def _tensors(entries: Iterable[Any]) -> dict[str, Tensor]:
    name = model_config_pb2.DataType.Name
    return {
        entry.name: Tensor(name(entry.data_type), bool(getattr(entry, "optional", False)), tuple(entry.dims))
        for entry in entries
    }


def read(repositories: Sequence[Path]) -> tuple[dict[str, Model], list[Finding]]:
    """Every model of the repositories, and what could not be read.

    Triton takes every folder for a model, hidden ones too, and leaves plain files alone.
    """
    models: dict[str, Model] = {}
    findings: list[Finding] = []
    for repository in repositories:
        for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
            try:
                model = _model(folder)
            except (text_format.ParseError, UnicodeDecodeError) as error:
                where = str(error).rstrip(".")
                findings.append(Finding(folder.name, f"{CONFIG} does not parse, line:column {where}", "Correct it"))
                continue
            if folder.name in models:
                where = f"in {models[folder.name].folder.parent} and in {repository}"
                findings.append(Finding(folder.name, f"it exists twice, {where}", "Rename or remove one of the two"))
            models[folder.name] = model
    return models, findings


def _model(folder: Path) -> Model:
    config = model_config_pb2.ModelConfig()
    path = folder / CONFIG
    if path.is_file():
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    names = [path.name for path in folder.iterdir() if path.is_dir()]
    versions = sorted(int(name) for name in names if name.isdecimal() and name.isascii() and name[0] != "0")
    return Model(folder.name, folder, config, tuple(versions))
