"""Tensors that clients send and get, by the path that their items take. A public contract: docs/model-repository.md.

B rows, N candidates of a pair request, X frames of a video, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from periscope_export.models.steps import Step, TensorSpec
from periscope_export.recipes.schema import Recipe
from periscope_runtime.kinds import templates
from periscope_runtime.paths import EMBEDDED, IMAGE, VIDEO, ItemPath
from periscope_runtime.recipe import Preparation

# Tensors that similarity maps need beside vectors: where a text's tokens come from, where a page's visual tokens are.
_PLACES = {
    "token_spans": TensorSpec("token_spans", "int32", ("B", "T", 2)),
    "visual_grid": TensorSpec("visual_grid", "int32", ("B", 3)),
}
_LATE_MASK = TensorSpec("late_mask", "int32", ("B", "T"))
_STATUS = TensorSpec("status", "string", ("B",))
_VECTORS = ("late", "dense", "score")


@dataclass(frozen=True)
class Input:
    """A tensor that a client sends: name, Triton's data type, axes without that of the rows."""

    name: str
    data_type: str = "TYPE_STRING"
    axes: tuple[int, ...] = (1,)
    optional: bool = False

    @property
    def dims(self) -> list[int]:
        """Axes as `config.pbtxt` writes them."""
        return list(self.axes)


def inputs(recipe: Recipe, path: ItemPath) -> list[Input]:
    """Return what an item of a path is made of, and what may be said of it."""
    preparation = recipe.preparation
    asked = []
    if preparation.instruction is not None:
        asked.append(Input("INSTRUCTION", optional=True))
    if preparation.tasks:
        asked.append(Input("TASK", optional=True))
    if path.pairs:
        assert preparation.pair is not None
        return [*_pair(preparation), *asked]
    assert path.content is not None
    content = [_content(path.content, preparation)]
    if path.visual and (path.content, "text") in preparation.kinds:
        content.append(Input("TEXT", optional=True))
    if recipe.outputs.smallest_dense is not None:
        asked.append(Input("DIMENSIONS", "TYPE_INT32", optional=True))
    return [*content, Input("ROLE", optional=True), *asked]


def rows(recipe: Recipe, path: ItemPath) -> int:
    """Return how many items the server joins into one run; 0 for pairs, of which a request already holds many."""
    return 0 if path.pairs else recipe.batch.rows(path)


def _content(kind: str, preparation: Preparation) -> Input:
    """Return the tensor that holds a text, an image or several, or the frames of a video."""
    several = kind == VIDEO.content or (kind == IMAGE.content and preparation.images is not None)
    return Input(kind.upper(), axes=(-1,) if several else (1,))


def _pair(preparation: Preparation) -> list[Input]:
    assert preparation.pair is not None
    kinds = templates(preparation.pair.contents)
    found = []
    for path in EMBEDDED:
        if path.content is not None and (path.content,) in kinds:
            content = _content(path.content, preparation)
            found.append(replace(content, name=f"QUERY_{content.name}", optional=True))
            found.append(replace(content, axes=(-1,), optional=True))
    if ("images",) in kinds:
        found.append(Input("IMAGE_COUNTS", "TYPE_INT32", (-1,), optional=True))
    if ("video",) in kinds:
        found.append(Input("VIDEO_FRAMES", "TYPE_INT32", (-1,), optional=True))
    return found


def prepared(recipe: Recipe, path: ItemPath, steps: Sequence[Step]) -> list[TensorSpec]:
    """Return what preparation gives: inputs of the path's steps that no earlier one gives, and what goes past them."""
    made: set[str] = set()
    wanted: dict[str, TensorSpec] = {}
    for step in on_path(path, steps):
        wanted.update({spec.name: spec for spec in step.inputs if spec.name not in made})
        made.update(spec.name for spec in step.outputs)
    if path.pairs:
        return [*wanted.values(), _STATUS]
    return [*wanted.values(), *(_place(recipe, path) if "late" in made else [])]


def outputs(recipe: Recipe, path: ItemPath, steps: Sequence[Step]) -> list[TensorSpec]:
    """Return what a client gets."""
    made = [spec for step in on_path(path, steps) for spec in step.outputs if spec.name in _VECTORS]
    if path.pairs:
        return [*made, _STATUS]
    if "late" not in {spec.name for spec in made}:
        return made
    return [*made, _LATE_MASK, *_place(recipe, path)]


def _place(recipe: Recipe, path: ItemPath) -> list[TensorSpec]:
    place = recipe.preparation.place(path)
    return [] if place is None else [_PLACES[place]]


def on_path(path: ItemPath, steps: Sequence[Step]) -> list[Step]:
    """Return the steps that items of a path pass, in order."""
    return [step for step in steps if path in step.paths]
