"""Optimization profiles: between which lengths an engine works, and for which it is made fastest.

They come from the recipe: buckets, limits, batch sizes. Letters are the free axes of `steps.py`: B rows, T tokens, V
visual tokens; Q queries, N documents, S document tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from periscope_export.recipe import Recipe
from periscope_export.steps import Step, TensorSpec, split_axis


class Lengths(NamedTuple):
    """The smallest, the usual and the largest length of an axis."""

    smallest: int
    usual: int
    largest: int


Profile = Mapping[str, Lengths]
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

# Tokens of a usual query, its prompt and augmentation included; documents that one request compares.
_USUAL_QUERY, _USUAL_DOCUMENTS, _MOST_DOCUMENTS = 32, 64, 1024


def profiles(recipe: Recipe, page_prompt: int) -> dict[str, Profile]:
    """Return the profiles of a retriever by name: `query` (one), `queries` (a batch), `pages`, `search`.

    `page_prompt` is how many tokens a page's prompt has beside its visual ones.
    """
    preparation = recipe.preparation
    buckets, image = preparation.buckets, preparation.image
    merged = image.merge_size**2
    tokens = Lengths(
        buckets.text_tokens,
        _bucket(_USUAL_QUERY, buckets.text_tokens),
        _bucket(preparation.limits.text_tokens, buckets.text_tokens),
    )
    # Documents are scanned or rendered with more pixels than the limit, and come down to it.
    smallest, largest = (
        _bucket(pixels // image.factor**2 * merged, buckets.patches) // merged
        for pixels in (image.min_pixels, image.max_pixels)
    )
    page_tokens = Lengths(
        _bucket(1 + page_prompt, buckets.page_tokens),
        *(_bucket(largest + page_prompt, buckets.page_tokens),) * 2,
    )
    nothing = Lengths(0, 0, 0)
    text, page = recipe.batch.text, recipe.batch.page
    return {
        "query": {"B": Lengths(1, 1, 1), "T": tokens, "V": nothing},
        "queries": {"B": Lengths(1, text, text), "T": tokens, "V": nothing},
        "pages": {"B": Lengths(1, page, page), "T": page_tokens, "V": Lengths(smallest, largest, largest)},
        "search": {
            "Q": Lengths(1, 1, text),
            "T": tokens,
            "N": Lengths(1, _USUAL_DOCUMENTS, _MOST_DOCUMENTS),
            "S": Lengths(1, page_tokens.usual, page_tokens.largest),
        },
    }


_OF_PATH = {"text": ("query", "queries"), "image": ("pages",), "search": ("search",)}


def of_step(step: Step, of_retriever: Mapping[str, Profile]) -> dict[str, dict[str, Shapes]]:
    """Return the profiles that a step needs, each with the shapes of its inputs."""
    names = [name for path in step.paths for name in _OF_PATH[path]]
    return {name: {spec.name: shapes(spec, of_retriever[name]) for spec in step.inputs} for name in names}


def shapes(spec: TensorSpec, profile: Profile) -> Shapes:
    """Return the smallest, the usual and the largest shape of a tensor."""

    def length(axis: int | str, which: int) -> int:
        if isinstance(axis, int):
            return axis
        factor, letter = split_axis(axis)
        return factor * profile[letter][which]

    smallest, usual, largest = (tuple(length(axis, which) for axis in spec.axes) for which in range(3))
    return smallest, usual, largest


def _bucket(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
