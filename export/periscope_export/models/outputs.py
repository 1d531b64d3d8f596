"""Outputs of a recipe, made of the towers' states: the steps of the heads, and the names of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from periscope_export.checkpoint.reading import Weights
from periscope_export.errors import ExportError, WrongBaseError
from periscope_export.models.heads import (
    MlpRerankHead,
    RerankHead,
    ScoreHead,
    dense_step,
    late_step,
    maxsim_step,
    rerank_step,
)
from periscope_export.models.steps import Step
from periscope_export.recipes.schema import LateOutput, Outputs, Recipe, ScoreLayer
from periscope_export.recipes.which import known_bases

_PROJECTION, _SCORE = "late_head.projection", "rerank_head.layers"
_OTHER = "Export it with the recipe of its own system."
_DENSE = " Its dense vectors are served without late ones by --set outputs.late=null."


def with_head_names(outputs: Outputs, backbone: Callable[[str], str]) -> Callable[[str], str]:
    """Return the name map: weights of heads by the recipe's names for them, everything else by the backbone's rules."""
    heads = dict(_head_names(outputs))

    def canonical(name: str) -> str:
        module, _, kind = name.rpartition(".")
        return f"{heads[module]}.{kind}" if module in heads and kind in ("weight", "bias") else backbone(name)

    return canonical


def head_steps(weights: Weights, recipe: Recipe, width: int) -> tuple[Step, ...]:
    """Return the steps behind the towers, whose states are `width` wide.

    Raises `ExportError` where the checkpoint lacks the weights of a head, or has ones that do not fit each other.
    """
    outputs, heads, dimension = recipe.outputs, list[Step](), None
    embedded = tuple(path for path in recipe.paths if path.embedded)
    if outputs.late is not None:
        dimension = _late_dimension(weights, outputs.late, recipe)
        heads.append(late_step(width, dimension, embedded))
    if outputs.dense is not None:
        heads.append(dense_step(width, outputs.dense.dimensions is not None, embedded, outputs.dense.layers))
    if outputs.rerank is not None:
        layers, offset = outputs.rerank.layers, outputs.rerank.offset
        build: Callable[[], ScoreHead] = partial(RerankHead, width, offset)
        if layers:
            build = partial(MlpRerankHead, _score_widths(weights, layers, width), layers, offset)
        heads.append(rerank_step(width, build))
    return (*heads, *([] if outputs.late is None else [maxsim_step(width if dimension is None else dimension)]))


def _head_names(outputs: Outputs) -> Iterator[tuple[str, str]]:
    if outputs.late is not None:
        yield from ((stored, _PROJECTION) for stored in outputs.late.projection or ())
    for number, layer in enumerate(outputs.rerank.layers if outputs.rerank else ()):
        yield from ((stored, f"{_SCORE}.{number}") for stored in layer.names)


def _late_dimension(weights: Weights, late: LateOutput, recipe: Recipe) -> int | None:
    if late.projection is None:
        return None
    name = f"{_PROJECTION}.weight"
    if name not in set(weights.keys()):
        if weights.adapted() and recipe.adapters is None:
            raise WrongBaseError(
                f"checkpoint: neither the adapter nor its base has a late projection ({_stored(late.projection)}). "
                f"Give the base that it was trained on with --base.{known_bases(recipe)}"
            )
        raise ExportError(
            f"checkpoint: there is no late projection ({_stored(late.projection)}), so this is no late-interaction "
            f"retriever. {_OTHER}{_DENSE if recipe.outputs.dense else ''}"
        )
    return weights.info(name).shape[0]


def _score_widths(weights: Weights, layers: list[ScoreLayer], width: int) -> list[int]:
    """Return what the first layer takes and what each gives."""
    widths, stored = [width], set(weights.keys())
    for number, layer in enumerate(layers):
        name = f"{_SCORE}.{number}.weight"
        if name not in stored:
            raise ExportError(f"checkpoint: there is no {_stored(layer.names)}, so nothing scores pairs here. {_OTHER}")
        shape, outputs = weights.info(name).shape, 1 if layer is layers[-1] else None
        if len(shape) != 2 or shape[1] != widths[-1] or outputs not in (None, shape[0]):
            wanted = f"[{'...' if outputs is None else outputs}, {widths[-1]}]"
            raise ExportError(
                f"checkpoint: {weights.stored_name(name)} is {list(shape)}, and the score needs {wanted}. {_OTHER}"
            )
        widths.append(shape[0])
    return widths


def _stored(modules: list[str]) -> str:
    return " or ".join(f"{module}.weight" for module in modules)
