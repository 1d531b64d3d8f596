"""The recipe that a checkpoint belongs to, where its hub id says so."""

from __future__ import annotations

from periscope_export.checkpoint.hub import hub_id
from periscope_export.errors import ExportError
from periscope_export.recipes.loading import load_recipe, recipe_names
from periscope_export.recipes.schema import Recipe


def recipe_of(location: str) -> str:
    """Return the recipe that lists a hub id, or a folder of the hub's cache, among its checkpoints.

    Raises `ExportError` for anything else, and for the base of a system's adapters.
    """
    recipes = [load_recipe(name) for name in recipe_names()]
    for recipe in recipes:
        refuse_base(location, recipe)
        if hub_id(location) in [checkpoint.id for checkpoint in recipe.checkpoints]:
            return recipe.name
    raise ExportError(
        f"export: no recipe lists {location}. Say with --recipe which system it descends from: "
        f"{', '.join(recipe.name for recipe in recipes)}."
    )


def refuse_base(location: str, recipe: Recipe) -> None:
    """Raise `ExportError` where a checkpoint is what adapters of this system are trained on."""
    if (found := hub_id(location)) is not None and found in map(hub_id, recipe.bases):
        raise ExportError(
            f"checkpoint: {found} is what adapters of {recipe.name} are trained on, and no retriever itself: its "
            "vectors mean nothing. Give an adapter, or what was made of both: "
            f"{', '.join(checkpoint.id for checkpoint in recipe.checkpoints)}."
        )


def known_bases(recipe: Recipe) -> str:
    """Return a sentence that names what adapters of this system are trained on, empty where the recipe does not."""
    return f" Adapters of {recipe.name} are trained on {' or '.join(recipe.bases)} (--base)." if recipe.bases else ""
