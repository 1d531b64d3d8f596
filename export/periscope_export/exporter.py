"""Checkpoint to model repository: the order of the work, and nothing else.

Graphs are made one step at a time, so memory holds one tower. The repository appears at once, complete, or not at all.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from periscope_export import fidelity
from periscope_export.errors import ExportError
from periscope_export.graph import export_graph, module_runner
from periscope_export.precision import Precision, cast
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.recipe import Recipe, load_recipe
from periscope_export.repository import RECIPE_FILE, VERSION, Identity, write_configs, write_preparation
from periscope_export.samples import QUERIES, sample_pages
from periscope_export.steps import Step
from periscope_export.weights import load_step
from periscope_runtime.prepare import Preparer, collate, no_visual_tokens

Say = Callable[[str], None]

# What of a recipe decides the vectors; buckets, limits and texts about the recipe do not.
_VECTOR_FIELDS = ("backbone", "attention")
_VECTOR_PREPARATION_FIELDS = ("image", "image_token", "positions", "prompts", "augmentation")


@dataclass(frozen=True)
class Request:
    """What to export: a checkpoint (directory or hub id), its recipe, and where the repository goes."""

    checkpoint: str
    recipe: str
    output: Path
    name: str | None = None
    base: str | None = None
    revision: str | None = None
    precision: Precision = "fp32"
    engine: str = "onnxruntime"


def export(request: Request, say: Say | None = None) -> Path:
    """Write a complete Triton repository and return its path.

    Raises `ExportError` for anything that would make the served vectors differ from the checkpoint's.
    """
    say = say or progress()
    name = request.name or request.recipe
    _check_request(request, name)
    retriever = open_retriever(request.checkpoint, request.recipe, request.base, request.revision, request.precision)
    say(f"checkpoint: {retriever.checkpoint.description}")
    for change in retriever.changes:
        say(f"recipe: the checkpoint says otherwise: {change}")
    with _complete_or_nothing(request.output) as folder:
        _write(folder, Identity(name, request.recipe, "", request.precision), retriever, say)
    say(f"repository: {request.output}")
    return request.output


def _write(folder: Path, identity: Identity, retriever: PublishedRetriever, say: Say) -> None:
    recipe, steps = retriever.recipe, retriever.steps
    folders = write_preparation(folder, identity.retriever, recipe, retriever.tokenizer)
    golden = _sample_inputs(Preparer(folders["text"]), retriever)
    digest = hashlib.sha256(_vector_fields(recipe, identity.precision))
    for number, step in enumerate(steps, start=1):
        say(f"{step.name} ({number} of {len(steps)}): reading weights")
        version = folder / f"{identity.retriever}_{step.name}" / VERSION
        module = load_step(step, retriever.checkpoint.weights, digest)
        _export_step(step, module, identity.precision, golden, version, say)
        gc.collect()
    identity = Identity(identity.retriever, identity.recipe, digest.hexdigest()[:32], identity.precision)
    write_configs(folder, identity, recipe, steps)
    say("fidelity: comparing the graphs with the towers")
    order = {step.name: list(step.paths) for step in steps}
    measured = fidelity.measure(golden, order, fidelity.graph_runner(folder, identity.retriever))
    fidelity.check(measured, recipe.tolerance[identity.precision])
    say(f"fidelity: vectors within {measured['vectors']['max_abs_error']:.1e} of the towers'")
    _write_json(folder / RECIPE_FILE, recipe.served())
    fidelity.write_golden(folder / fidelity.GOLDEN_FILE, golden)
    report = {
        **vars(identity),
        "checkpoint": retriever.checkpoint.description,
        "tolerance": recipe.tolerance[identity.precision],
        "measured": measured,
        "measured_at": fidelity.stamp(),
        "versions": fidelity.versions(),
        "reference": recipe.reference.model_dump(),
        "order": order,
        "files": fidelity.file_digests(folder),
    }
    _write_json(folder / fidelity.FIDELITY_FILE, report)


def _export_step(
    step: Step, module: nn.Module, precision: Precision, golden: fidelity.Golden, version: Path, say: Say
) -> None:
    """Run the tower on the samples in float32, so that the next step has inputs, and write its graph."""
    for path in step.paths:
        fidelity.run_step(step.name, path, golden, module_runner(step, module))
    say(f"{step.name}: writing the graph")
    export_graph(step, cast(module, precision), golden[step.paths[-1]], version)


def _sample_inputs(preparer: Preparer, retriever: PublishedRetriever) -> fidelity.Golden:
    retriever.check_tokenizer(preparer.image_token_id)
    buckets = preparer.preparation.buckets
    texts = collate([preparer.text(query.encode()) for query in QUERIES], buckets)
    images = collate([preparer.image(page) for page in sample_pages()], buckets)
    texts["visual_tokens"] = no_visual_tokens(len(QUERIES), retriever.width)
    return {"text": dict(texts), "image": dict(images)}


def _vector_fields(recipe: Recipe, precision: str) -> bytes:
    served = recipe.served()
    fields = {name: served[name] for name in _VECTOR_FIELDS}
    fields["outputs"] = recipe.outputs.model_dump(exclude_none=True)
    fields["preparation"] = {name: served["preparation"][name] for name in _VECTOR_PREPARATION_FIELDS}
    return json.dumps({**fields, "precision": precision}, sort_keys=True).encode()


def _check_request(request: Request, retriever: str) -> None:
    if request.precision not in (allowed := load_recipe(request.recipe).tolerance):
        raise ExportError(
            f"export: recipe {request.recipe} has no tolerance for {request.precision}. "
            f"Use one of: {', '.join(allowed)}."
        )
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", retriever):
        raise ExportError(f"export: {retriever!r} cannot name a model. Use letters, digits, - and _.")
    if request.output.exists() and (not request.output.is_dir() or any(request.output.iterdir())):
        raise ExportError(f"export: {request.output} exists and is not empty. Name a new directory, or remove it.")


@contextmanager
def _complete_or_nothing(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output` that takes its name when the work is done, and vanishes when it is not."""
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        partial.rename(output)
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
