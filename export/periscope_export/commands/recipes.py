"""`periscope recipes [NAME | FILE.yaml]`: what can be exported, or all that one recipe says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import yaml

from periscope_export.errors import ExportError
from periscope_export.recipes.loading import load_recipe, recipe_names
from periscope_export.recipes.overrides import parse_settings, with_settings
from periscope_export.recipes.schema import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "recipe",
        nargs="?",
        metavar="NAME | FILE.yaml",
        help="print this recipe with all that it extends and every default, as a file that --recipe takes "
        "(default: list the packaged recipes and their checkpoints)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="as `periscope export` would set it"
    )


def run(args: argparse.Namespace) -> int:
    """Print."""
    try:
        if args.recipe is None and not args.set:
            print("\n".join(line for name in recipe_names() for line in described(load_recipe(name))))
        elif args.recipe is None:
            raise ExportError("recipes: --set is of one recipe. Name it, or leave --set out.")
        else:
            print(as_yaml(with_settings(load_recipe(args.recipe), parse_settings(args.set))), end="")
    except ExportError as error:
        print(error.line("recipes"), file=sys.stderr)
        return 1
    return 0


def as_yaml(recipe: Recipe) -> str:
    """Return a recipe as the text of a file that holds all of it, and extends nothing."""
    return yaml.dump(recipe.served(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def described(recipe: Recipe) -> Iterator[str]:
    """Lines about a recipe: its name, what it is, its checkpoints, and its tasks where they have adapters."""
    yield recipe.name
    yield f"  {recipe.description}"
    for checkpoint in recipe.checkpoints:
        yield f"  {checkpoint.id}" + (f" @ {checkpoint.revision}" if checkpoint.revision else "")
    if stacked := recipe.preparation.stacked:
        yield f"  with an adapter for each of the tasks {', '.join(stacked)}; --task NAME merges one"
    elif recipe.adapters is not None:
        yield f"  of the task {', '.join(recipe.preparation.tasks)}"


class _Dumper(yaml.SafeDumper):
    """YAML in which the line breaks of a prompt are seen, and a short list is one line."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


def _items(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.SequenceNode:
    plain = not any(isinstance(one, dict | list) for one in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=plain)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _items)
