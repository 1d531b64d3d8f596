"""The tables of systems in docs/systems.md and README.md, written from the recipes: `make systems`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path

from periscope_export.errors import ExportError
from periscope_export.recipes.loading import load_recipe, recipe_names
from periscope_export.recipes.schema import PublishedCheckpoint, PublishedScore, Recipe
from periscope_runtime.kinds import parsed, plural

# Characters of a line.
_WIDTH = 120
_HEAD = """\
# Systems

Written from the recipes by `make systems`; a test holds it current. Fields, and how to change one:
[recipes.md](recipes.md). Parity is the largest difference of a served vector or score from the published
implementation, in fp32, with random weights in the published layout, when last measured ([fidelity.md](fidelity.md)).
"""

# Marks around the table in README.md.
_BEGIN, _END = "<!-- Written by `make systems`. -->", "<!-- Until here. -->"


def document() -> str:
    """Return docs/systems.md: a table of all recipes, then form, hub ids and reference of each."""
    recipes = [load_recipe(name) for name in recipe_names()]
    return "\n".join([_HEAD, *_table(recipes), *(line for recipe in recipes for line in _section(recipe))]) + "\n"


def with_table(readme: str) -> str:
    """Return README.md with its table of published systems written anew, between its marks.

    Raises `ExportError` where one of them is missing.
    """
    before, begin, rest = readme.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ExportError(
            f"systems: README.md lacks {_BEGIN} or {_END}, between which its table stands. Put them back."
        )
    recipes = [recipe for name in recipe_names() if (recipe := load_recipe(name)).checkpoints]
    return "\n".join([f"{before}{_BEGIN}", *_short_table(recipes), f"{_END}{after}"])


def _short_table(recipes: list[Recipe]) -> Iterator[str]:
    yield "| recipe | published as | takes | gives |"
    yield "|---|---|---|---|"
    for recipe in recipes:
        first, *others = (checkpoint.id for checkpoint in recipe.checkpoints)
        cells = (
            f"[`{recipe.name}`](docs/systems.md#{recipe.name})",
            f"{first}, ..." if others else first,
            _kinds(recipe),
            ", ".join(_gives(recipe)),
        )
        yield f"| {' | '.join(cells)} |"


def _table(recipes: list[Recipe]) -> Iterator[str]:
    yield "| recipe | takes | gives | precisions | parity |"
    yield "|---|---|---|---|---|"
    for recipe in recipes:
        cells = (
            f"[`{recipe.name}`](#{recipe.name})",
            _takes(recipe),
            ", ".join(_gives(recipe)),
            ", ".join(recipe.tolerance),
            f"{recipe.reference.max_abs_error:.1e}",
        )
        yield f"| {' | '.join(cells)} |"


def _kinds(recipe: Recipe) -> str:
    """Kinds of content in words, in the recipe's order: "image_text" is "images with texts"."""
    preparation = recipe.preparation
    pairs = [] if preparation.pair is None else [preparation.pair.contents]
    words = dict.fromkeys(word for contents in (*preparation.prompts.values(), *pairs) for word in contents)
    return ", ".join(plural(parsed(word)) for word in words)


def _takes(recipe: Recipe) -> str:
    """Kinds of content, and what may be asked."""
    preparation, taken = recipe.preparation, [_kinds(recipe)]
    if preparation.instruction is not None:
        taken.append("instructions")
    if preparation.tasks:
        taken.append(f"tasks {', '.join(f'`{name}`' for name in preparation.tasks)}")
    return "; ".join(taken)


def _gives(recipe: Recipe) -> Iterator[str]:
    if recipe.outputs.late is not None:
        yield "a vector a token"
    if recipe.outputs.dense is not None:
        fewest = recipe.outputs.smallest_dense
        yield "a vector an item" + ("" if fewest is None else f" ({fewest} dimensions to all)")
    if recipe.outputs.rerank is not None:
        yield "scores of pairs"


def _section(recipe: Recipe) -> Iterator[str]:
    reference = recipe.reference
    yield ""
    yield f"## {recipe.name}"
    yield ""
    yield f"{recipe.description}. Backbone `{recipe.backbone}`."
    yield ""
    if recipe.form is not None:
        yield textwrap.fill(recipe.form, _WIDTH, break_long_words=False, break_on_hyphens=False)
        yield ""
    yield from (f"- {_hub(checkpoint)}" for checkpoint in recipe.checkpoints)
    if not recipe.checkpoints:
        yield "- No checkpoint is published; for ones that are trained so."
    if recipe.bases:
        yield f"- Bases of adapters, no retrievers themselves: {', '.join(f'`{name}`' for name in recipe.bases)}"
    packages = zip(reference.package.split(", "), reference.version.split(", "), strict=True)
    compared = ", ".join(f"{package} {version}" for package, version in packages)
    if recipe.checkpoints:
        yield f"- Licence: {recipe.licence or 'not known here, see the pages of the checkpoints'}."
    yield f"- Compared with {compared}: {' '.join(reference.note.split())}."
    yield from _scores(recipe.published)


def _hub(checkpoint: PublishedCheckpoint) -> str:
    revision = "" if checkpoint.revision is None else f" at `{checkpoint.revision}`"
    return f"[{checkpoint.id}](https://huggingface.co/{checkpoint.id}){revision}"


def _scores(published: list[PublishedScore]) -> Iterator[str]:
    """Return the scores to expect, as a table."""
    if published:
        yield ""
        yield "| benchmark | metric | checkpoint | published | source |"
        yield "|---|---|---|---|---|"
    for score in published:
        cells = (score.benchmark, score.metric, score.checkpoint or "", f"{score.value:g}", score.source or "")
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Write the document, and the table of README.md where it is given."""
    parser = argparse.ArgumentParser(prog="python -m periscope_export.recipes.systems_table", description=__doc__)
    parser.add_argument("file", type=Path, help="where to: docs/systems.md")
    parser.add_argument("readme", type=Path, nargs="?", help="README.md, of which the table is written anew")
    given = parser.parse_args()
    given.file.write_text(document(), encoding="utf-8")
    if given.readme is not None:
        given.readme.write_text(with_table(given.readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
