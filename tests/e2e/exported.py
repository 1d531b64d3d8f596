"""A checkpoint and what `periscope export` made of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from periscope_export.exporter import Request, export


class Exported(NamedTuple):
    name: str
    checkpoint: Path
    repository: Path


def exported(folder: Path, name: str, checkpoint: Path, recipe: str = "colqwen2") -> Exported:
    repository = export(Request(checkpoint=str(checkpoint), recipe=recipe, output=folder / "repository", name=name))
    return Exported(name, checkpoint, repository)
