"""Needs of a check that not every system meets: where one is missing, the check is skipped, and the report says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from contract.served import recipe_of
from periscope_export.recipes.schema import Recipe
from periscope_testing.system import System


class Need(NamedTuple):
    """A part of a recipe, and the reason for which a system without it is left out."""

    part: Callable[[Recipe], object]
    without: str


_VECTORS = Need(lambda recipe: recipe.outputs.late or recipe.outputs.dense, "scores pairs, and gives no vectors")
_SCORES = Need(lambda recipe: recipe.outputs.rerank, "gives vectors, and scores no pairs")
_INSTRUCTION = Need(lambda recipe: recipe.preparation.instruction, "its prompts take no instruction")
_DIMENSIONS = Need(
    lambda recipe: recipe.outputs.dense and recipe.outputs.dense.dimensions, "gives no dense vectors that can be cut"
)
# By the name of a check's function, or of a fixture that it takes.
_NEEDS: Mapping[str, Need] = {
    "embedder": _VECTORS,
    "reranker": _SCORES,
    "test_a_wrong_item_is_far_away": _VECTORS,
    "test_a_wrong_pair_is_far_away": _SCORES,
    "test_instructions": _INSTRUCTION,
    "test_instructions_of_pairs": _INSTRUCTION,
    "test_tasks": Need(lambda recipe: recipe.preparation.tasks, "has no tasks"),
    "test_tasks_share_a_batch": Need(lambda recipe: recipe.preparation.stacked, "has no stacked adapters"),
    "test_fewer_dimensions": _DIMENSIONS,
    "test_dimensions_that_there_are_not": _DIMENSIONS,
    "test_padding_is_zero_and_marked": Need(
        lambda recipe: recipe.outputs.late, "gives no late vectors, the only ones with padding"
    ),
}


def missing(system: System, check: str) -> str:
    """Return why a check, or a fixture, is not for a system, "" where it is."""
    if reason := system.excluded.get(check):
        return reason
    if check == "test_the_mistakes_of_a_system_are_far_away" and not system.mistakes:
        return "its row names no mistakes of its own"
    need = _NEEDS.get(check)
    return "" if need is None or need.part(recipe_of(system)) else need.without
