"""Families of published models by the word that recipes use as their backbone: a module each that defines `FAMILY`."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from periscope_export.errors import ExportError
from periscope_export.families.reading import ties
from periscope_export.models.steps import Step
from periscope_export.recipes.schema import Recipe

# Words of a recipe that are false where a part of towers is left out.
_LEFT_OUT = ("final_norm", "deepstack")


@dataclass(frozen=True)
class Family:
    """A family of published models: all that an export needs to know of it.

    `steps` makes the towers of a `config.json` and a recipe. It raises `ExportError` for what they cannot be.
    `width` is that of the hidden states that heads read.
    `image_token_id` is the id that visual tokens replace, None without a language model over images.
    `rules` are patterns and what they become, in order: stored weight names of any known layout to the towers' own.
    `unused` matches the names after these rules that no retriever needs.
    `leaves_out` are the words of a recipe that say what of its towers is left out ("final_norm", "deepstack").
    `defaults` are those of the published classes that a `config.json` may leave out, by section.
    `embeddings` is the name of the table of token embeddings.
    `language_head` is that of the weight whose rows score the next token, None where there is none.
    `tied` says whether a checkpoint that stores only one of these two means both.
    """

    steps: Callable[[Mapping[str, Any], Recipe], tuple[Step, ...]]
    width: Callable[[Mapping[str, Any]], int]
    image_token_id: Callable[[Mapping[str, Any]], int | None]
    rules: tuple[tuple[str, str], ...]
    unused: str
    leaves_out: tuple[str, ...] = ()
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    embeddings: str = "language_model.embed_tokens.weight"
    language_head: str | None = "lm_head.weight"
    tied: Callable[[Mapping[str, Any]], bool] = ties

    def check(self, recipe: Recipe) -> None:
        """Raise `ExportError` for a recipe that leaves out what these towers do not have."""
        for word in _LEFT_OUT:
            if not getattr(recipe, word) and word not in self.leaves_out:
                raise ExportError(
                    f"recipe {recipe.name}: {word} is false, and towers of {recipe.backbone} have no such thing to "
                    f"leave out. Set {word}=true."
                )

    def canonical(self, name: str) -> str:
        """Return the towers' name for a stored weight; a name that no rule knows stays as it is."""
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name

    def tied_names(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the language head and the table of embeddings where one is both, else None."""
        return (self.language_head, self.embeddings) if self.language_head and self.tied(config) else None


@cache
def families() -> dict[str, Family]:
    """Return all families by their words, sorted."""
    words = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = {word: import_module(f"{__name__}.{word}") for word in words}
    return {word: module.FAMILY for word, module in modules.items() if hasattr(module, "FAMILY")}


def family(recipe: Recipe) -> Family:
    """Return the family of a recipe's backbone. Raises `ExportError` for an unknown one, naming those that exist."""
    if recipe.backbone not in families():
        raise ExportError(
            f"recipe {recipe.name}: there is no backbone {recipe.backbone!r}. Use one of: {', '.join(families())}."
        )
    return families()[recipe.backbone]
