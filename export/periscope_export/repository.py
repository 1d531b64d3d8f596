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

from periscope_export.engines import ENGINES
from periscope_export.precision import Precision
from periscope_export.profiles import Profile, query_shapes, rows, usual_rows
from periscope_export.recipe import Recipe
from periscope_export.steps import Step, TensorSpec
from periscope_runtime.recipe import ContentKind

VERSION = "1"
RECIPE_FILE = "recipe.json"

# What similarity maps need beside vectors: where a text's tokens come from, where a page's visual tokens are.
_PLACES = {
    "text": TensorSpec("token_spans", "int32", ("B", "T", 2)),
    "image": TensorSpec("visual_grid", "int32", ("B", 3)),
}
_TRITON_TYPES = {
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
}


@dataclass(frozen=True)
class Identity:
    """Whose vectors a repository serves: its name, recipe, fingerprint and precision, and what computes them."""

    retriever: str
    recipe: str
    fingerprint: str
    precision: Precision
    engine: str


def write_preparation(folder: Path, retriever: str, recipe: Recipe, tokenizer: Path) -> dict[ContentKind, Path]:
    """Write the files of the preparation models, without configs, and return their version folders."""
    written: dict[ContentKind, Path] = {}
    with as_file(files("periscope_repository")) as templates:
        kinds: tuple[ContentKind, ...] = ("text", "image")
        for kind in kinds:
            version = folder / f"{retriever}_preprocess_{kind}" / VERSION
            version.mkdir(parents=True)
            shutil.copyfile(templates / "preprocess" / "model.py", version / "model.py")
            shutil.copyfile(tokenizer, version / "tokenizer.json")
            (version / RECIPE_FILE).write_text(json.dumps(recipe.served(), indent=2) + "\n", encoding="utf-8")
            written[kind] = version
    return written


def write_configs(
    folder: Path, identity: Identity, recipe: Recipe, steps: Sequence[Step], profiles: Mapping[str, Sequence[Profile]]
) -> None:
    """Write every `config.pbtxt`: preparation, graphs, ensembles.

    `profiles` are those of each step, by its name; a step without any is served by onnxruntime on every engine.
    """
    by_name = {step.name: step for step in steps}
    dimension, dense_dimension = (
        by_name[name].outputs[0].axes[-1] if name in by_name else None for name in ("late_head", "dense_head")
    )
    values: dict[str, Any] = {
        **vars(identity),
        "batch": recipe.batch,
        "dimension": dimension,
        "dense_dimension": dense_dimension,
    }
    largest = {"text": recipe.batch.text, "image": recipe.batch.page}
    with as_file(files("periscope_repository")) as templates:
        environment = _environment(templates)

        def write(model: str, template: str, **more: Any) -> None:
            path = folder / f"{identity.retriever}_{model}" / "config.pbtxt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(environment.get_template(template).render(**values, **more), encoding="utf-8")

        for step in steps:
            write(
                step.name,
                "graph/config.pbtxt",
                step=step,
                template_of_engine=ENGINES[identity.engine].template if profiles[step.name] else "onnxruntime",
                # An ensemble may not ask for more rows than each of its steps takes.
                max_batch_size=rows(step, recipe),
                preferred_rows=usual_rows(step, recipe),
                profiles=profiles[step.name],
                recorded=query_shapes(step, recipe),
            )
        for kind, outputs in preparation_outputs(by_name).items():
            write(
                f"preprocess_{kind}",
                "preprocess/config.pbtxt",
                kind=kind,
                outputs=outputs,
                max_batch_size=largest[kind],
            )
        for ensemble in ("embed_text", "embed_image"):
            write(ensemble, f"{ensemble}/config.pbtxt")
            # An ensemble has no files, but Triton wants a version folder, and object stores keep no empty ones.
            version = folder / f"{identity.retriever}_{ensemble}" / VERSION
            version.mkdir()
            (version / ".keep").touch()


def preparation_outputs(steps: dict[str, Step]) -> dict[str, list[TensorSpec]]:
    """Return what each preparation model gives: inputs of its path that no earlier step gives, and places for maps."""
    outputs: dict[str, list[TensorSpec]] = {}
    for path in ("text", "image"):
        made: set[str] = set()
        wanted: dict[str, TensorSpec] = {}
        for step in steps.values():
            if path in step.paths:
                wanted.update({spec.name: spec for spec in step.inputs if spec.name not in made})
                made.update(spec.name for spec in step.outputs)
        outputs[path] = [*wanted.values(), _PLACES[path]]
    return outputs


def _environment(templates: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(templates), undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )

    environment.filters["triton_type"] = lambda spec: _TRITON_TYPES[spec.dtype]
    environment.filters["triton_dims"] = lambda spec: spec.dims
    environment.filters["profile_numbers"] = _profile_numbers
    environment.filters["accelerator_shapes"] = accelerator_shapes
    return environment


def _profile_numbers(profiles: Sequence[Profile]) -> str:
    return json.dumps([str(number) for number in range(len(profiles))])


def accelerator_shapes(profiles: Sequence[Profile], which: int) -> str:
    """Return the smallest (0), usual (1) or largest (2) shapes as onnxruntime's TensorRT provider reads them.

    Tensors that are named again belong to the next profile: "input_ids:1x8,input_ids:1x32".
    """
    return ",".join(
        f"{name}:{'x'.join(map(str, shapes[which]))}" for profile in profiles for name, shapes in profile.shapes.items()
    )
