"""Optimization profiles: between which lengths an engine works, and for which it is made fastest.

They come from the recipe: buckets, limits, batch sizes. Letters are the free axes of `steps.py`: B rows, T tokens, V
visual tokens, G rows of images of an item, P patches of such a row by those of a visual token ("4P"), W by those of a
window ("64W"), D dimensions of a dense vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from periscope_export.models.steps import Step, TensorSpec, split_axis
from periscope_export.recipes.schema import Recipe
from periscope_runtime.lengths import ItemLengths, Range, bucketed, usual_tokens
from periscope_runtime.paths import PATHS, TEXT, ItemPath


class Lengths(NamedTuple):
    """The smallest, the usual and the largest length of an axis."""

    smallest: int
    usual: int
    largest: int


Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Profile(NamedTuple):
    """One optimization profile of a step: lengths by the letter of their axis, and what they make of its inputs."""

    name: str
    lengths: Mapping[str, Lengths]
    shapes: Mapping[str, Shapes]

    def as_json(self) -> dict[str, Any]:
        """Return what `engine.json` says of it."""
        return {"name": self.name, "lengths": dict(self.lengths), "shapes": dict(self.shapes)}


# Tokens of a usual query, its prompt and augmentation included.
_USUAL_QUERY = 32
# The profile of queries that come alone.
_ONE_QUERY = TEXT.profiles[0]


def rows(step: Step, recipe: Recipe) -> int:
    """Return how many rows the server joins into one run of a step, 0 where it joins none."""
    return max(recipe.batch.rows(path) for path in step.paths) if step.batched else 0


def usual_rows(step: Step, recipe: Recipe) -> list[int]:
    """Return the numbers of rows above one that the profiles of a step are made fastest for, sorted."""
    return sorted({recipe.batch.rows(path) for path in step.paths} - {1})


def query_shapes(step: Step, recipe: Recipe, width: int) -> list[dict[str, list[int]]]:
    """Return the shapes of inputs, without their rows, that usual single queries have: a launch worth recording each.

    Queries of up to twice the usual length, whole dense vectors; none for a step that serves no texts.
    """
    if TEXT not in step.paths:
        return []
    bucket = recipe.preparation.buckets.text_tokens
    lengths = range(bucket, bucketed(2 * _USUAL_QUERY, bucket) + 1, bucket)

    def shape(spec: TensorSpec, tokens: int) -> list[int]:
        return list(
            shapes(spec, {"B": _exactly(1), "T": _exactly(tokens), "V": _exactly(0), "D": _exactly(width)})[0][1:]
        )

    return [{spec.name: shape(spec, tokens) for spec in step.inputs} for tokens in lengths]


def step_profiles(step: Step, recipe: Recipe, lengths: Mapping[ItemPath, ItemLengths], width: int) -> list[Profile]:
    """Return the profiles that a step needs, in the order in which an engine numbers them.

    `width` is that of a whole dense vector. None for a step whose lengths no recipe bounds: MaxSim takes whatever
    vectors callers send.
    """
    found = []
    letters = {split_axis(axis)[1] for spec in step.inputs for axis in spec.axes if isinstance(axis, str)}
    for path in PATHS.values():
        for name in path.profiles if path in step.paths else ():
            of_axes = _lengths(name, path, recipe, lengths[path], rows(step, recipe), width)
            used = {letter: length for letter, length in of_axes.items() if letter in letters}
            found.append(Profile(name, used, {spec.name: shapes(spec, used) for spec in step.inputs}))
    return found


def _lengths(
    name: str, path: ItemPath, recipe: Recipe, lengths: ItemLengths, most_rows: int, width: int
) -> dict[str, Lengths]:
    """Return the lengths of one profile: one query, several, or items of another path.

    Whatever else a step serves, the server may join as many items of any path as rows.
    """
    usual_rows = min(recipe.batch.rows(path), most_rows)
    every = {
        "B": _exactly(1) if name == _ONE_QUERY else Lengths(1, usual_rows, most_rows),
        "D": Lengths(recipe.outputs.smallest_dense or width, width, width),
    }
    if not path.visual:
        usual_query = bucketed(_USUAL_QUERY, recipe.preparation.buckets.text_tokens)
        return {**every, "T": _between(lengths.tokens, usual_query), "V": _exactly(0)}
    usual = _usual_page(recipe, lengths.visual_tokens)
    # A text beside an image is seldom as long as it may be.
    beside = bucketed(_USUAL_QUERY, recipe.preparation.buckets.page_tokens)
    row = _between(lengths.row_tokens, usual)
    return {
        **every,
        "T": _between(lengths.tokens, usual + beside),
        "V": _between(lengths.visual_tokens, usual),
        "G": _between(lengths.image_rows, -(-usual // row.usual)),
        "P": row,
        "W": Lengths(*(length // recipe.preparation.page_policy.window**2 for length in row)),
    }


def _usual_page(recipe: Recipe, visual: Range) -> int:
    """Documents are scanned or rendered with more pixels than the limit, and come down to it."""
    image, bucket = recipe.preparation.page_policy, recipe.preparation.buckets.patches
    merged = image.merge_size**2
    return min(bucketed(usual_tokens(image) * merged, bucket) // merged, visual.largest)


def _between(lengths: Range, usual: int) -> Lengths:
    return Lengths(lengths.smallest, min(max(usual, lengths.smallest), lengths.largest), lengths.largest)


def _exactly(length: int) -> Lengths:
    return Lengths(length, length, length)


def shapes(spec: TensorSpec, lengths: Mapping[str, Lengths]) -> Shapes:
    """Return the smallest, the usual and the largest shape of a tensor."""

    def length(axis: int | str, which: int) -> int:
        if isinstance(axis, int):
            return axis
        factor, letter = split_axis(axis)
        return factor * lengths[letter][which]

    smallest, usual, largest = (tuple(length(axis, which) for axis in spec.axes) for which in range(3))
    return smallest, usual, largest
