"""Writes the Triton side of a repository: configs from the templates, and the preparation models.

The templates are in `model_repository/`; names and axes come from the steps, so a graph and its config cannot differ.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from periscope_export.graphs.precision import Precision
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.recipes.schema import Recipe
from periscope_export.repository import wire
from periscope_export.repository.profiles import Profile, query_shapes, rows, usual_rows
from periscope_runtime.paths import TEXT, ItemPath
from periscope_runtime.prefixes import PREFIXES_FILE, Ids

VERSION = "1"
RECIPE_FILE = "recipe.json"

# Of processes that only pages and videos pass through, the end of Unix's scale: a query takes the CPU from them, and
# two steps of pages hardly interrupt each other.
PAGES_NICE = 19

_TRITON_TYPES = {
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
    "string": "TYPE_STRING",
}


@dataclass(frozen=True)
class Identity:
    """The retriever of a repository: its name, recipe, fingerprint and precision, and what computes its vectors."""

    retriever: str
    recipe: str
    fingerprint: str
    precision: Precision
    engine: str

    @property
    def parameters(self) -> dict[str, str]:
        """Everything that clients are told of it."""
        return {"fingerprint": self.fingerprint, "recipe": self.recipe, "precision": self.precision}


def write_preparation(
    folder: Path, retriever: str, recipe: Recipe, tokenizer: Path, kept: Sequence[Ids] = ()
) -> dict[str, Path]:
    """Write the files of the preparation models, without configs, and return their version folders by the path's name.

    `kept` are the prefixes of prompts that the language model keeps.
    """
    written: dict[str, Path] = {}
    with as_file(files("periscope_repository")) as templates:
        for path in recipe.paths:
            version = folder / f"{retriever}_preprocess_{path.name}" / VERSION
            version.mkdir(parents=True)
            shutil.copyfile(templates / "preprocess" / "model.py", version / "model.py")
            shutil.copyfile(tokenizer, version / "tokenizer.json")
            (version / RECIPE_FILE).write_text(json.dumps(recipe.served(), indent=2) + "\n", encoding="utf-8")
            if kept:
                ids = json.dumps([ids_J.tolist() for ids_J in kept])
                (version / PREFIXES_FILE).write_text(ids + "\n", encoding="utf-8")
            written[path.name] = version
    return written


def write_configs(
    folder: Path,
    identity: Identity,
    recipe: Recipe,
    steps: Sequence[Step],
    profiles: Mapping[str, Sequence[Profile]],
    engines: Mapping[str, str],
    width: int,
) -> None:
    """Write every `config.pbtxt`: preparation, graphs, ensembles.

    `profiles` and `engines` (the template of the engine's part of the config) are those of each step, by its name.
    `width` is that of a whole dense vector.
    """
    with as_file(files("periscope_repository")) as templates:
        environment = _environment(templates)

        def write(model: str, template: str, **values: Any) -> None:
            path = folder / f"{identity.retriever}_{model}" / "config.pbtxt"
            path.parent.mkdir(exist_ok=True)
            rendered = environment.get_template(template).render(retriever=identity.retriever, model=model, **values)
            path.write_text(rendered, encoding="utf-8")

        for step in steps:
            write(
                step.name,
                "graph/config.pbtxt",
                step=step,
                fingerprint=identity.fingerprint,
                template_of_engine=engines[step.name],
                # An ensemble may not ask for more rows than each of its steps takes.
                max_batch_size=rows(step, recipe),
                preferred_rows=usual_rows(step, recipe),
                profiles=profiles[step.name],
                recorded=query_shapes(step, recipe, width) if profiles[step.name] else [],
                parameters=_priority(recipe, step.paths),
            )
        for path in recipe.paths:
            bounds = _bounds(recipe, path, width)
            tensors = {"inputs": wire.inputs(recipe, path), "max_batch_size": wire.rows(recipe, path)}
            write(
                f"preprocess_{path.name}",
                "preprocess/config.pbtxt",
                **tensors,
                outputs=wire.prepared(recipe, path, steps),
                parameters={"path": path.name, **bounds, **_priority(recipe, (path,))},
            )
            write(
                path.model,
                "ensemble/config.pbtxt",
                **tensors,
                outputs=wire.outputs(recipe, path, steps),
                parameters={**identity.parameters, **bounds, **_limits(recipe)},
                steps=_wiring(recipe, path, steps),
            )
            # An ensemble has no files, but Triton wants a version folder, and object stores keep no empty ones.
            version = folder / f"{identity.retriever}_{path.model}" / VERSION
            version.mkdir()
            (version / ".keep").touch()


def _priority(recipe: Recipe, paths: Sequence[ItemPath]) -> dict[str, int]:
    """Return the parameter that lets a step give way to others on the CPU, where only pages and videos pass it."""
    gives_way = all(path.embedded and path.visual for path in paths)
    return {"nice": PAGES_NICE} if TEXT in recipe.paths and gives_way else {}


def _bounds(recipe: Recipe, path: ItemPath, width: int) -> dict[str, int]:
    """Return how wide dense vectors may be asked for, and how many candidates fit into a request."""
    if path.pairs:
        return {"max_candidates": recipe.batch.rows(path)}
    if recipe.outputs.dense is None:
        return {}
    smallest = recipe.outputs.smallest_dense
    return {"dense_width": width, **({} if smallest is None else {"dense_smallest": smallest})}


def _limits(recipe: Recipe) -> dict[str, int]:
    """Return the limits that callers can hold an item against before they send it."""
    limits = recipe.preparation.limits
    return {name: getattr(limits, name) for name in ("image_bytes", "image_pixels", "text_bytes")}


def _wiring(recipe: Recipe, path: ItemPath, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return which tensors each step of an ensemble reads and gives; a tensor has one name everywhere."""
    sent = [tensor.name for tensor in wire.inputs(recipe, path)]
    prepared = [spec.name for spec in wire.prepared(recipe, path, steps)]
    return [
        {"model": f"preprocess_{path.name}", "inputs": sent, "outputs": prepared},
        *(
            {
                "model": step.name,
                "inputs": [spec.name for spec in step.inputs],
                "outputs": [spec.name for spec in step.outputs],
            }
            for step in wire.on_path(path, steps)
        ),
    ]


def _environment(templates: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(templates), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )

    environment.filters["triton_type"] = lambda spec: _TRITON_TYPES[spec.dtype]
    # If the server joins no rows, theirs is an axis like the others.
    environment.filters["triton_dims"] = lambda spec, batch: (
        [-1, *spec.dims] if _rows_are_free(spec, batch) else spec.dims
    )
    environment.filters["profile_numbers"] = _profile_numbers
    environment.filters["accelerator_shapes"] = accelerator_shapes
    return environment


def _rows_are_free(spec: TensorSpec, batch: int) -> bool:
    return not batch and spec.axes[0] == "B"


def _profile_numbers(profiles: Sequence[Profile]) -> str:
    return json.dumps([str(number) for number in range(len(profiles))])


def accelerator_shapes(profiles: Sequence[Profile], which: int) -> str:
    """Return the smallest (0), usual (1) or largest (2) shapes as onnxruntime's TensorRT provider reads them.

    Tensors that are named again belong to the next profile: "input_ids:1x8,input_ids:1x32".
    """
    return ",".join(
        f"{name}:{'x'.join(map(str, shapes[which]))}" for profile in profiles for name, shapes in profile.shapes.items()
    )
