"""Whether compiled graphs work for everything that preparation sends them.

An engine works between the lengths of its profiles only, and Triton finds out at the first request that is outside.
`engine.json` beside a graph or a plan says what it was compiled for, `recipe.json` and the tokenizer of the preparation
step what may come.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from periscope_runtime.lengths import Range
from periscope_runtime.paths import ItemPath
from periscope_runtime.prepare import Preparer
from periscope_serve.preparation import path
from periscope_serve.repository import ENSEMBLE, Finding, Model

ENGINE_FILE = "engine.json"
_REMEDY = "Export the retriever again with this recipe"


def check(models: Mapping[str, Model]) -> Iterator[Finding]:
    """Every compiled graph of the repositories that is not given its profiles, or that an ensemble may exceed."""
    compiled = {}
    for name, model in models.items():
        try:
            if by_version := _profiles(model):
                compiled[name] = by_version
        except (ValueError, KeyError, TypeError) as error:
            yield Finding(name, f"its {ENGINE_FILE} says no profiles ({type(error).__name__}: {error})", _REMEDY)
    for name, versions in compiled.items():
        for version, profiles in versions.items():
            yield from _configured(models[name], version, profiles)
    for ensemble in models.values():
        if ensemble.backend != ENSEMBLE:
            continue
        names = [step.model_name for step in ensemble.config.ensemble_scheduling.step]
        preparation = next((models[name] for name in names if name in models and path(models[name])), None)
        steps = [name for name in names if name in compiled]
        if steps and preparation is not None and (items := path(preparation)) is not None:
            lengths = _lengths(preparation, items)
            for name in steps:
                needed = {"B": Range(1, models[name].config.max_batch_size), **lengths}
                for profiles in compiled[name].values():
                    yield from _covered(models[name], profiles, items.name, needed)


def _profiles(model: Model) -> dict[int, list[Any]]:
    """Return the profiles of each served version of a model that is compiled."""
    files = {version: model.version_folder(version) / ENGINE_FILE for version in model.served}
    return {
        version: json.loads(file.read_text(encoding="utf-8"))["profiles"]
        for version, file in files.items()
        if file.is_file()
    }


def _parameter(model: Model, name: str) -> str:
    return str(model.config.parameters[name].string_value) if name in model.config.parameters else ""


def _lengths(preparation: Model, items: ItemPath) -> dict[str, Range]:
    """Return the lengths that prepared items have, by the letter of their axis."""
    preparer = Preparer(preparation.version_folder(preparation.served[-1]))
    lengths = preparer.lengths[items]
    width = int(_parameter(preparation, "dense_width") or 0)
    smallest = int(_parameter(preparation, "dense_smallest") or width)
    image = preparer.preparation.image
    window = 1 if image is None else image.window
    return {
        "T": lengths.tokens,
        "V": lengths.visual_tokens,
        "G": lengths.image_rows,
        "P": lengths.row_tokens,
        "W": Range(*(length // window**2 for length in lengths.row_tokens)),
        "D": Range(smallest, width),
    }


def _covered(
    model: Model, profiles: Sequence[Mapping[str, Any]], kind: str, needed: Mapping[str, Range]
) -> Iterator[Finding]:
    """One of the profiles covers every axis."""
    lacking = {profile["name"]: list(_lacking(profile["lengths"], needed)) for profile in profiles}
    if lacking and not all(lacking.values()):
        return
    said = "; ".join(f"{name}: {', '.join(axes)}" for name, axes in lacking.items()) or "it has none"
    yield Finding(model.name, f"no profile of its engine covers every {kind} that preparation sends ({said})", _REMEDY)


def _lacking(lengths: Mapping[str, Sequence[int]], needed: Mapping[str, Range]) -> Iterator[str]:
    for axis, (smallest, _, largest) in lengths.items():
        if not smallest <= needed[axis].smallest <= needed[axis].largest <= largest:
            yield f"{axis} {smallest} to {largest} instead of {needed[axis].smallest} to {needed[axis].largest}"


def _configured(model: Model, version: int, profiles: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """The config hands the engine its profiles: all of a plan's by number, or the shapes to compile between."""
    numbers = [number for group in model.config.instance_group for number in group.profile]
    if model.backend == "tensorrt" and sorted(numbers) != [str(number) for number in range(len(profiles))]:
        yield Finding(
            model.name,
            f"its instance groups use the profiles {', '.join(numbers) or 'none'}, and its plan has {len(profiles)}",
            "List every number from 0 on in `profile`",
        )
    for accelerator in model.config.optimization.execution_accelerators.gpu_execution_accelerator:
        for number, which in enumerate(("min", "opt", "max")):
            found = accelerator.parameters.get(f"trt_profile_{which}_shapes", "")
            wanted = [
                f"{name}:{'x'.join(map(str, shapes[number]))}"
                for profile in profiles
                for name, shapes in profile["shapes"].items()
            ]
            if found.split(",") != wanted:
                yield Finding(
                    model.name,
                    f"its trt_profile_{which}_shapes are not those of {version}/{ENGINE_FILE}",
                    _REMEDY,
                )
