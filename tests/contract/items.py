"""Items of every kind that a recipe takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from e2e.pages import draw_page
from periscope_export.recipes.schema import Recipe
from periscope_testing.reference import Item

TEXTS = (
    "revenue by region",
    "Welche Seite zeigt den Energieverbrauch?",
    "図表 📈 of 2024, naïve café",
    "a\nb  {text} {augmentation} <pad> <bos>",
    "x",
    "how many visitors " * 20,
)
# Width, height: square, wide, tall, smaller than a visual token, a multiple of 28 and one of 32.
SIZES = ((100, 100), (500, 90), (70, 410), (20, 17), (280, 196), (320, 192))
PAGES = tuple(draw_page(*size, seed) for seed, size in enumerate(SIZES))
# Prepared, but embedded by nobody: above the limits of pixels.
LARGE = (draw_page(1500, 1400, 7), draw_page(1100, 900, 8))
# (width, height), frames: a single one, an odd number, small ones that grow.
VIDEOS = tuple(
    tuple(draw_page(*size, seed) for seed in range(frames))
    for size, frames in (((300, 200), 1), ((320, 180), 3), ((50, 40), 6))
)
INSTRUCTIONS = ("Find the page", "Find the page.", " Which page is it? ", "探して。", "a")

KINDS: dict[str, tuple[Item, ...]] = {
    "text": tuple(Item(text) for text in TEXTS),
    "image": tuple(Item(image=page) for page in PAGES),
    "image_text": (Item("Whose is it?", PAGES[0]), Item("growth", PAGES[4])),
    "video": tuple(Item(video=frames) for frames in VIDEOS),
    "video_text": (Item("growth by month", video=VIDEOS[1]),),
}


def kinds(recipe: Recipe) -> Iterator[tuple[Item, ...]]:
    """Yield items of each kind in each role that has a prompt of its own."""
    seen = set()
    for role, prompts in recipe.preparation.prompts.items():
        for kind, prompt in prompts.items():
            if (kind, prompt) not in seen:
                seen.add((kind, prompt))
                yield tuple(replace(item, role=role) for item in KINDS[kind])


def sides(recipe: Recipe) -> dict[str, Item]:
    """Return one item of each kind that a pair takes."""
    pair = recipe.preparation.pair
    return {kind: KINDS[kind][0] for kind in (pair.contents if pair else ())}
