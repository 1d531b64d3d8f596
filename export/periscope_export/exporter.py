"""Checkpoint to model repository: the order of the work, and nothing else.

Graphs are made one step at a time, and weights stay in files, so memory holds no tower. The repository appears at once,
complete, or not at all.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from periscope_export.checkpoint import untrained
from periscope_export.engines.runners import runner
from periscope_export.errors import ExportError
from periscope_export.fidelity import fingerprint, gate
from periscope_export.fidelity.activations import Activation, choice, largest_of
from periscope_export.fidelity.closeness import measure
from periscope_export.fidelity.record import Golden, Measured, require_finite, run_step
from periscope_export.fidelity.report import closeness, write_report
from periscope_export.fidelity.sample_inputs import sample_inputs
from periscope_export.graphs.graph import example, export_graph, module_runner
from periscope_export.graphs.precision import Precision, at, cast
from periscope_export.graphs.quantise import quantise
from periscope_export.graphs.weight_range import require_range
from periscope_export.models.kept_prefixes import keeping, prefixes_to_keep
from periscope_export.models.steps import Step
from periscope_export.models.towers import Towers
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.remedies import Refusal, remedy
from periscope_export.repository.folder import complete_or_nothing
from periscope_export.repository.profiles import step_profiles
from periscope_export.repository.writing import RECIPE_FILE, VERSION, Identity, write_configs, write_preparation
from periscope_export.request import Request, check_precision, check_request
from periscope_runtime.errors import PreparationError
from periscope_runtime.prepare import Preparer

__all__ = ["Request", "Say", "export", "progress"]

Say = Callable[[str], None]


def export(request: Request, say: Say | None = None) -> Path:
    """Write a complete Triton repository and return its path.

    Raises `ExportError` for anything that would make the served vectors differ from the checkpoint's.
    """
    say = say or progress()
    name = request.name or load_recipe(request.recipe).name
    check_request(request, name)
    retriever = open_retriever(request.checkpoint, request.recipe, request.base, request.revision, request.settings)
    say(f"checkpoint: {retriever.checkpoint.description}")
    for change in retriever.changes:
        say(f"recipe: {change}")
    if doubt := untrained.doubt(retriever.checkpoint.weights):
        say(f"checkpoint: {doubt}")
    with complete_or_nothing(request.output) as folder:
        _write(_Work(request, name, retriever, folder, say))
    say(f"repository: {request.output}")
    return request.output


@dataclass(frozen=True)
class _Work:
    """One export: whose, as asked for, into which folder, and where progress is said."""

    request: Request
    name: str
    retriever: PublishedRetriever
    folder: Path
    say: Say


def _write(work: _Work) -> None:
    request, retriever, folder, name = work.request, work.retriever, work.folder, work.name
    recipe, engine = retriever.recipe, request.runs_in
    kept = prefixes_to_keep(retriever.steps, recipe, retriever.tokenizer) if engine.keeps_prefixes else []
    preparer = _preparer(next(iter(write_preparation(folder, name, recipe, retriever.tokenizer, kept).values())))
    towers = Towers(keeping(retriever.steps, kept), retriever.checkpoint.weights, folder)
    golden = _samples(preparer, retriever, towers)
    precision, activations = _run_towers(work, towers, golden)
    steps = [at(step, engine.stored(precision)) for step in towers.steps.values()]
    versions = {step.name: folder / f"{name}_{step.name}" / VERSION for step in steps}
    for step in steps:
        _write_graph(work, towers, golden, precision, step, versions[step.name])
    profiles = {
        step.name: step_profiles(step, recipe, preparer.lengths, retriever.width) if engine.profiled else []
        for step in steps
    }
    engine.build(folder, versions, profiles, request.options, work.say)
    digest = fingerprint.begin(recipe, precision, towers.steps.values(), retriever.tokenizer)
    digest.update(towers.digest)
    identity = Identity(name, recipe.name, digest.hexdigest()[:32], precision, engine.name)
    served_by = {name: engine.template_of(tower, profiles[name]) for name, tower in towers.steps.items()}
    write_configs(folder, identity, recipe, steps, profiles, served_by, retriever.width)
    measured_with, measured = _measure(work, towers, golden, precision)
    engine.tidy(versions, request.options)
    (folder / RECIPE_FILE).write_text(json.dumps(recipe.served(), indent=2) + "\n", encoding="utf-8")
    known = {
        **vars(identity),
        "checkpoint": retriever.checkpoint.description,
        "set": dict(request.settings),
        "activations": activations,
        "measured": measured,
        "measured_with": measured_with,
        "order": towers.order,
    }
    write_report(folder, recipe, precision, golden, known)


def _preparer(folder: Path) -> Preparer:
    try:
        return Preparer(folder)
    except ValueError as error:
        raise ExportError(f"export: {error}") from error


def _samples(preparer: Preparer, retriever: PublishedRetriever, towers: Towers) -> Golden:
    retriever.check_tokenizer(preparer.image_token_id)
    try:
        return sample_inputs(preparer, tuple(towers.steps.values()), retriever.width)
    except PreparationError as error:
        raise ExportError(
            f"export: the items that graphs are measured with cannot be prepared: one {error.problem}. "
            "Correct preparation.limits and preparation.image, in the checkpoint or with --set."
        ) from error


def _run_towers(work: _Work, towers: Towers, golden: Golden) -> tuple[Precision, dict[str, Any] | None]:
    """Add to `golden` what the towers make of it in float32, and see that the graphs can hold their weights.

    Return the precision of the graphs, and the activations that decide it where nobody did.
    """
    engine = work.request.runs_in
    precision, deciding = work.request.precision or engine.default, None
    largest: dict[str, Activation] = {}
    for number, (name, step) in enumerate(towers.steps.items(), start=1):
        work.say(f"{name} ({number} of {len(towers.steps)}): reading weights")
        run = partial(_run_tower, step, towers[name], golden)
        if precision is None:
            largest[name] = largest_of(towers[name], run)
        else:
            run()
        require_finite(golden)
    if precision is None:
        chosen = choice(largest)
        work.say(f"precision: {chosen}")
        check_precision(work.request, chosen.precision)
        precision, deciding = chosen.precision, chosen.as_json()
    for name, step in towers.steps.items():
        holds = engine.holds_weights_in(precision, step.is_tower)
        require_range(step, towers[name], holds, work.retriever.checkpoint.weights.stored_name)
    return precision, deciding


def _run_tower(step: Step, module: nn.Module, golden: Golden) -> None:
    for path in step.paths:
        run_step(step.name, path.name, golden, module_runner(step, module))


def _write_graph(work: _Work, towers: Towers, golden: Golden, precision: Precision, step: Step, version: Path) -> None:
    """Write the graph of a step, which is already in the precision that graphs are stored in."""
    engine, quantisation = work.request.runs_in, work.retriever.recipe.quantisation
    work.say(f"{step.name}: writing the graph")
    module = cast(towers[step.name], engine.stored(precision), towers.folder)
    graph = export_graph(step, module, example(step, golden), version)
    del module
    if precision in ("int8", "fp8") and (how := quantisation.get(precision, {}).get(step.name)):
        work.say(f"{step.name}: quantising to {precision}")
        quantise(graph, graph, precision, [golden[path.name] for path in step.paths], how.keep, how.per_token)
    if towers.steps[step.name].is_tower:
        engine.write(graph)
    gc.collect()


def _measure(work: _Work, towers: Towers, golden: Golden, precision: Precision) -> tuple[str, Measured]:
    """Return what compared the graphs with the towers, in words, and what it found.

    Raises `ExportError`, with what would pass, where they are further apart than the recipe allows.
    """
    recipe, engine = work.retriever.recipe, work.request.runs_in
    measured_with, run = runner(towers, precision, engine, work.folder, work.name)
    work.say(f"fidelity: comparing {measured_with}, with the fp32 towers")
    measured = measure(golden, towers.order, run)
    if gate.problems(measured, recipe.tolerance[precision]):
        refusal = Refusal(recipe, towers, precision, engine, work.folder, work.name, golden, measured)
        gate.require(measured, recipe.tolerance[precision], remedy(refusal, work.say))
    work.say(f"fidelity: {closeness(measured, precision)}")
    return measured_with, measured


def progress() -> Say:
    """Return a function that writes lines with the seconds since the start to stderr."""
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", file=sys.stderr, flush=True)

    return say
