"""A request for an export, and its refusal before anything is downloaded or read."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from periscope_export.engines import ENGINES
from periscope_export.engines.engine import Engine, Options
from periscope_export.errors import ExportError
from periscope_export.graphs.precision import Precision
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import Settings, with_settings


@dataclass(frozen=True)
class Request:
    """An order for an export: a checkpoint (directory or hub id), its recipe (name or file), and the folder to write.

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

    @property
    def runs_in(self) -> Engine:
        """The engine itself."""
        return ENGINES[self.engine]


def check_precision(request: Request, precision: Precision) -> None:
    """Raise `ExportError` where the engine, or the recipe, has no such precision."""
    tolerance = with_settings(load_recipe(request.recipe), request.settings).tolerance
    allowed = [one for one in request.runs_in.precisions if one in tolerance]
    if precision not in allowed:
        raise ExportError(
            f"export: {request.engine} does not serve {precision}, or recipe {request.recipe} has no tolerance for it. "
            f"Use one of: {', '.join(allowed)}."
        )


def check_request(request: Request, retriever: str) -> None:
    """Raise `ExportError` for everything that is known to be wrong before the checkpoint is looked at."""
    if request.precision is not None:
        check_precision(request, request.precision)
    request.runs_in.check(request.precision)  # what is missing would be found at the end
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
