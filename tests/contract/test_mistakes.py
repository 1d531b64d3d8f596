"""The typical mistakes of an implementation: each moves the published vectors far beyond the tolerance of equality."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from contract.items import KINDS, kinds
from contract.served import distance, recipe_of
from contract.tolerances import MISTAKE
from periscope_testing.reference import Item, Reference
from periscope_testing.system import System

Pages = Callable[[Image.Image], Image.Image]
PAGES: dict[str, Pages] = {
    "channels swapped": lambda page: Image.merge("RGB", page.split()[::-1]),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "its left half": lambda page: page.crop((0, 0, page.width // 2, page.height)),
    "the white made grey": lambda page: page.point(lambda value: value * 0.98),
}


def wrong(item: Item) -> Iterator[tuple[str, Item]]:
    """Yield items that are not the one that was asked for."""
    if item.text is not None:
        yield "another case", replace(item, text=item.text.swapcase() + " s")
        yield "its words reversed", replace(item, text=" ".join(item.text.split()[::-1]))
    if item.image is not None:
        for name, change in PAGES.items():
            yield name, replace(item, image=change(item.image))
    if item.video is not None and len(item.video) > 1:
        yield "frames reversed", replace(item, video=item.video[::-1])
        yield "a frame lost", replace(item, video=item.video[:-1])


@pytest.fixture(scope="session")
def reference(system: System, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder: Path = tmp_path_factory.mktemp(system.name)
    return system.reference(system.make(folder / "checkpoint"))


def test_a_wrong_item_is_far_away(system: System, reference: Reference) -> None:
    recipe = recipe_of(system)
    for items in kinds(recipe):
        item = items[-1] if items[0].video else items[0]
        for name, other in wrong(item):
            assert distance(reference.embed(other), reference.embed(item)) > MISTAKE, name
        if recipe.preparation.instruction:
            other = replace(item, instruction="Represent the text.")
            assert distance(reference.embed(other), reference.embed(item)) > MISTAKE


def test_a_wrong_pair_is_far_away(system: System, reference: Reference) -> None:
    query, documents = KINDS["text"][0], [KINDS["image"][0], KINDS["text"][1]]
    right = reference.scores(query, documents)
    exchanged = np.concatenate([reference.scores(document, [query]) for document in documents])
    other = reference.scores(replace(query, instruction="Find the number"), documents)
    for scores in (exchanged, other, right[::-1], 1 - right):
        assert np.abs(scores - right).min() > MISTAKE


def test_the_mistakes_of_a_system_are_far_away(system: System, reference: Reference) -> None:
    for name, (item, change) in system.mistakes.items():
        right = reference.embed(item)
        with change(reference):
            assert distance(reference.embed(item), right) > MISTAKE, name
        assert distance(reference.embed(item), right) == 0
