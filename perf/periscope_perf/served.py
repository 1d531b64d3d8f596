"""Contents of a repository, read from its files: the ensembles of a retriever, their steps, engine and precision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from periscope_perf.errors import ScenarioError
from periscope_perf.scenario import Load
from periscope_serve import repository
from periscope_serve.errors import BadRepositoryError

_SUFFIXES = ("_embed_text", "_embed_image", "_embed_video", "_rerank")
_PREPARATION = "python"


@dataclass(frozen=True)
class Ensemble:
    """A model that clients call.

    name: its own; inputs: the names of its inputs.
    steps: the models that it is made of; python_steps: those of them in Python.
    rows: the largest number of rows of one request, 0 where it has no such axis.
    candidates: of a reranker, the largest number of candidates.
    """

    name: str
    inputs: frozenset[str]
    steps: tuple[str, ...]
    python_steps: tuple[str, ...]
    rows: int
    candidates: int | None


@dataclass(frozen=True)
class Quality:
    """The closeness of the graphs to the fp32 towers, as the export measured: None where it measured nothing such."""

    cosine: float | None = None
    rank_agreement: float | None = None


@dataclass(frozen=True)
class Served:
    """A retriever of a repository."""

    repository: Path
    name: str
    recipe: str
    fingerprint: str
    engine: str
    precision: str
    quality: Quality
    ensembles: Mapping[str, Ensemble]

    def ensemble(self, load: Load) -> Ensemble:
        """The ensemble that takes a load. Raises: ScenarioError when the repository has none."""
        if load.ensemble not in self.ensembles:
            raise ScenarioError(
                f"{self.name}: {self.repository.name} serves no {self.name}_{load.ensemble}, only "
                f"{', '.join(ensemble.name for ensemble in self.ensembles.values())}. Leave the scenario out"
            )
        return self.ensembles[load.ensemble]


def read(folder: Path, retriever: str | None = None) -> Served:
    """Read the retriever of that name, or the only one there is.

    Raises: BadRepositoryError when the folder is no repository, ScenarioError naming the retrievers that there are.
    """
    if not folder.is_dir():
        raise BadRepositoryError(f"{folder} is no directory. Give the one that `periscope export` wrote")
    models, findings = repository.read([folder])
    if findings:
        raise BadRepositoryError(str(findings[0]))
    called = [name for name, model in models.items() if model.backend == repository.ENSEMBLE]
    names = sorted({name.removesuffix(suffix) for name in called for suffix in _SUFFIXES if name.endswith(suffix)})
    if not names:
        raise BadRepositoryError(f"{folder} serves no retriever. Give the directory that `periscope export` wrote")
    if retriever not in (None, *names) or (retriever is None and len(names) > 1):
        raise ScenarioError(
            f"{folder.name}: there is {'no retriever ' + repr(retriever) if retriever else 'more than one retriever'}. "
            f"Name one of them (--retriever): {', '.join(names)}"
        )
    chosen = retriever or names[0]
    wanted = {suffix[1:]: models[chosen + suffix] for suffix in _SUFFIXES if chosen + suffix in models}
    ensembles = {suffix: _ensemble(model, models) for suffix, model in wanted.items()}
    first = next(iter(wanted.values()))
    fidelity = _fidelity(folder)
    return Served(
        repository=folder,
        name=chosen,
        recipe=_parameter(first, "recipe"),
        fingerprint=_parameter(first, "fingerprint"),
        engine=fidelity.get("engine") or _engine(models, ensembles),
        precision=_parameter(first, "precision") or fidelity.get("precision") or "unknown",
        quality=_quality(fidelity),
        ensembles=ensembles,
    )


def _ensemble(model: repository.Model, models: Mapping[str, repository.Model]) -> Ensemble:
    candidates = _parameter(model, "max_candidates")
    steps = tuple(dict.fromkeys(step.model_name for step in model.config.ensemble_scheduling.step))
    return Ensemble(
        name=model.name,
        inputs=frozenset(model.inputs),
        steps=steps,
        python_steps=tuple(step for step in steps if step in models and models[step].backend == _PREPARATION),
        rows=model.config.max_batch_size,
        candidates=int(candidates) if candidates else None,
    )


def _parameter(model: repository.Model, name: str) -> str:
    return str(model.config.parameters[name].string_value) if name in model.config.parameters else ""


def _engine(models: Mapping[str, repository.Model], ensembles: Mapping[str, Ensemble]) -> str:
    steps = [models[step] for ensemble in ensembles.values() for step in ensemble.steps if step in models]
    return next((model.backend for model in steps if model.backend != _PREPARATION), _PREPARATION)


def _fidelity(folder: Path) -> dict[str, Any]:
    path = folder / "fidelity.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return data


def _quality(fidelity: Mapping[str, Any]) -> Quality:
    measured = fidelity.get("measured", {})
    return Quality(
        cosine=measured.get("vectors", {}).get("min_cosine"),
        rank_agreement=measured.get("retrieval", {}).get("kendall_tau"),
    )
