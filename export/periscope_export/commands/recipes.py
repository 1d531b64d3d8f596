"""`periscope recipes`: what can be exported."""

from __future__ import annotations

import argparse

from periscope_export.recipes.schema import load_recipe, recipe_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take no arguments."""


def run(args: argparse.Namespace) -> int:
    """Print each recipe with its checkpoints."""
    for name in recipe_names():
        recipe = load_recipe(name)
        print(f"{name}\n  {recipe.description}")
        for checkpoint in recipe.checkpoints:
            print(f"  {checkpoint.id}" + (f" @ {checkpoint.revision}" if checkpoint.revision else ""))
    return 0
