"""Checkpoint to model repository: the order of the work, and nothing else.

Graphs are made one step at a time, so memory holds one tower. The repository appears at once, complete, or not at all.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from periscope_export.checkpoint import untrained
from periscope_export.engines import compiler
from periscope_export.engines.runners import runner
from periscope_export.engines.table import ENGINES
from periscope_export.engines.tensorrt_engine import Options
from periscope_export.errors import ExportError
from periscope_export.fidelity import fingerprint, gate
from periscope_export.fidelity import record as fidelity
from periscope_export.fidelity.activations import choose_precision
from periscope_export.fidelity.closeness import measure
from periscope_export.fidelity.sample_inputs import sample_inputs
from periscope_export.graphs.graph import example, export_graph, module_runner
from periscope_export.graphs.precision import Precision, at, cast
from periscope_export.graphs.quantise import quantise
from periscope_export.graphs.weight_range import require_range
from periscope_export.models.kept_prefixes import keeping, prefixes_to_keep
from periscope_export.models.weights import load_step
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import Settings, with_settings
from periscope_export.remedies import Refusal, remedy
from periscope_export.repository.profiles import step_profiles
from periscope_export.repository.writing import RECIPE_FILE, VERSION, Identity, write_configs, write_preparation
from periscope_runtime.errors import PreparationError
from periscope_runtime.prepare import Preparer

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to export: a checkpoint (directory or hub id), its recipe (name or file), and where the repository goes.

    `precision` None is the engine's own: fp32 in onnxruntime, otherwise fp16, or bf16 where fp16 would overflow.
    `options` are for engines that are compiled here; `settings` are recipe fields that the user sets.
    """

    checkpoint: str
    recipe: str
    output: Path
    name: str | None = None
    base: str | None = None
    revision: str | None = None
    precision: Precision | None = None
    engine: str = "onnxruntime"
    options: Options = field(default_factory=Options)
    settings: Settings = field(default_factory=dict)


def export(request: Request, say: Say | None = None) -> Path:
    """Write a complete Triton repository and return its path.

    Raises `ExportError` for anything that would make the served vectors differ from the checkpoint's.
    """
    say = say or progress()
    name = request.name or load_recipe(request.recipe).name
    _check_request(request, name)
    retriever = open_retriever(request.checkpoint, request.recipe, request.base, request.revision, request.settings)
    say(f"checkpoint: {retriever.checkpoint.description}")
    for change in retriever.changes:
        say(f"recipe: {change}")
    if doubt := untrained.doubt(retriever.checkpoint.weights):
        say(f"checkpoint: {doubt}")
    with _complete_or_nothing(request.output) as folder:
        _write(folder, request, name, retriever, say)
    say(f"repository: {request.output}")
    return request.output


def _write(folder: Path, request: Request, name: str, retriever: PublishedRetriever, say: Say) -> None:
    recipe, engine = retriever.recipe, ENGINES[request.engine]
    kept = prefixes_to_keep(retriever.steps, recipe, retriever.tokenizer) if engine.keeps_prefixes else []
    retriever = replace(retriever, steps=keeping(retriever.steps, kept))
    preparer = _preparer(next(iter(write_preparation(folder, name, recipe, retriever.tokenizer, kept).values())))
    precision, activations = _precision(folder, request, retriever, preparer, say)
    stored = engine.graphs or precision
    steps = [at(step, stored) for step in retriever.steps]
    versions = {step.name: folder / f"{name}_{step.name}" / VERSION for step in steps}
    golden = _samples(preparer, retriever)
    digest = fingerprint.begin(recipe, precision, retriever.steps, retriever.tokenizer)
    for number, (tower, step) in enumerate(zip(retriever.steps, steps, strict=True), start=1):
        say(f"{step.name} ({number} of {len(steps)}): reading weights")
        module = load_step(tower, retriever.checkpoint.weights, digest, folder)
        holds = engine.holds_weights_in(precision, tower.is_tower)
        require_range(tower, module, holds, retriever.checkpoint.weights.stored_name)
        # In float32, so that the next step has inputs.
        for path in tower.paths:
            fidelity.run_step(tower.name, path.name, golden, module_runner(tower, module))
        fidelity.require_finite(golden)
        say(f"{step.name}: writing the graph")
        graph = export_graph(step, cast(module, stored, folder), example(step, golden), versions[step.name])
        del module
        if precision in ("int8", "fp8") and (how := recipe.quantisation.get(precision, {}).get(step.name)):
            say(f"{step.name}: quantising to {precision}")
            quantise(graph, graph, precision, [golden[path.name] for path in step.paths], how.keep, how.per_token)
        if engine.form and tower.is_tower:
            engine.form(graph)
        gc.collect()
    profiles = {
        step.name: step_profiles(step, recipe, preparer.lengths, retriever.width) if engine.profiled else []
        for step in steps
    }
    compiler.prepare(folder, versions, profiles, request.engine, request.options, say)
    identity = Identity(name, recipe.name, digest.hexdigest()[:32], precision, request.engine)
    served_by = {
        tower.name: engine.template if profiles[tower.name] or (engine.form and tower.is_tower) else "onnxruntime"
        for tower in retriever.steps
    }
    write_configs(folder, identity, recipe, steps, profiles, served_by, retriever.width)
    measured_with, run = runner(retriever, precision, request.engine, folder, name)
    say(f"fidelity: comparing {measured_with}, with the fp32 towers")
    order = {step.name: [path.name for path in step.paths] for step in steps}
    measured = measure(golden, order, run)
    if gate.problems(measured, recipe.tolerance[precision]):
        refusal = Refusal(retriever, precision, request.engine, folder, name, golden, measured)
        gate.require(measured, recipe.tolerance[precision], remedy(refusal, say))
    say(f"fidelity: {_closeness(measured, precision)}")
    compiler.remove_graphs(versions, request.options)
    _write_json(folder / RECIPE_FILE, recipe.served())
    fidelity.write_golden(folder / fidelity.GOLDEN_FILE, golden)
    report = {
        **vars(identity),
        "checkpoint": retriever.checkpoint.description,
        "set": dict(request.settings),
        "activations": activations,
        "tolerance": recipe.tolerance[precision].model_dump(),
        "measured": measured,
        "measured_with": measured_with,
        "measured_at": fidelity.stamp(),
        "versions": fidelity.versions(),
        "reference": recipe.reference.model_dump(),
        "order": order,
        "files": fidelity.file_digests(folder),
        "sizes": fidelity.file_sizes(folder),
    }
    _write_json(folder / fidelity.FIDELITY_FILE, report)


def _closeness(measured: Mapping[str, Any], precision: Precision) -> str:
    """Return how close what was measured is; below fp32 with the cosines, which are what decides there."""
    vectors, scores = measured["vectors"], measured["retrieval"]
    said = [f"vectors within {vectors['max_abs_error']:.1e}"] if vectors["vectors"] else []
    said += [f"scores within {scores['max_abs_error']:.1e}"] if scores else []
    if precision != "fp32" and vectors["vectors"]:
        cosines = f"cosines {vectors['min_cosine']:.4f} at least and {vectors['mean_cosine']:.5f} in the mean"
        return f"{', '.join(said)} of the towers', {cosines}"
    return f"{', '.join(said)} of the towers'"


def _precision(
    folder: Path, request: Request, retriever: PublishedRetriever, preparer: Preparer, say: Say
) -> tuple[Precision, dict[str, Any] | None]:
    """Return the precision of the graphs, and the activations that decided it where nobody did."""
    precision = request.precision or ENGINES[request.engine].default
    if precision is not None:
        return precision, None
    say("precision: looking how large activations grow")
    choice = choose_precision(retriever, _samples(preparer, retriever), folder)
    say(f"precision: {choice}")
    _check_precision(request, choice.precision)
    return choice.precision, choice.as_json()


def _preparer(folder: Path) -> Preparer:
    try:
        return Preparer(folder)
    except ValueError as error:
        raise ExportError(f"export: {error}") from error


def _samples(preparer: Preparer, retriever: PublishedRetriever) -> fidelity.Golden:
    retriever.check_tokenizer(preparer.image_token_id)
    try:
        return sample_inputs(preparer, retriever.steps, retriever.width)
    except PreparationError as error:
        raise ExportError(
            f"export: the items that graphs are measured with cannot be prepared: one {error.problem}. "
            "Correct preparation.limits and preparation.image, in the checkpoint or with --set."
        ) from error


def _check_precision(request: Request, precision: Precision) -> None:
    tolerance = with_settings(load_recipe(request.recipe), request.settings).tolerance
    allowed = [one for one in ENGINES[request.engine].precisions if one in tolerance]
    if precision not in allowed:
        raise ExportError(
            f"export: {request.engine} does not serve {precision}, or recipe {request.recipe} has no tolerance for it. "
            f"Use one of: {', '.join(allowed)}."
        )


def _check_request(request: Request, retriever: str) -> None:
    if request.precision is not None:
        _check_precision(request, request.precision)
    ENGINES[request.engine].check(request.precision)  # what is missing would be found at the end
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", retriever):
        raise ExportError(f"export: {retriever!r} cannot name a model. Use letters, digits, - and _.")
    if os.path.ismount(request.output):
        raise ExportError(
            f"export: {request.output} is a mount point, which cannot be replaced. Name a new directory in it."
        )
    if request.output.exists() and (not request.output.is_dir() or any(request.output.iterdir())):
        raise ExportError(f"export: {request.output} exists and is not empty. Name a new directory, or remove it.")
    # Before a checkpoint is downloaded: a place that cannot be written to is known now.
    parent = request.output.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(prefix=f".{request.output.name}.", dir=parent).cleanup()
    except OSError as error:
        raise ExportError(
            f"export: {parent} cannot be written to ({error.strerror}). Name a directory in another place."
        ) from error


# Bytes; with fewer left a disk is full.
_FULL = 1 << 20


@contextmanager
def _complete_or_nothing(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output` that takes its name when the work is done, and vanishes when it is not.

    Raises `ExportError` for whatever the disk refuses within the block.
    """
    output = output.absolute()
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        partial.rename(output)
    except ExportError:
        raise
    except Exception as error:
        # Engines that write by themselves have errors of their own.
        if not isinstance(error, OSError) and shutil.disk_usage(partial).free >= _FULL:
            raise
        why = error.strerror if isinstance(error, OSError) else "No space left on device"
        written = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        raise ExportError(
            f"export: {output} cannot be written: {why}. {written / 1e6:.0f} MB of it were, and are removed again. "
            "Name an --output on a disk that has room for more and that you may write to."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def progress() -> Say:
    """Return a function that writes lines with the seconds since the start to stderr."""
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", file=sys.stderr, flush=True)

    return say


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
