"""Visual tokens of the image that is beside texts, the same for all: computed once, when a retriever is exported.

The language model keeps them behind those that it is given, and a text is given none. So no query passes the vision
tower.

V visual tokens that the vision tower gives, J of them real and kept, W their width.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from periscope_export.errors import ExportError
from periscope_export.models.steps import Step
from periscope_export.recipes.schema import Recipe
from periscope_runtime.image_rows import image_rows
from periscope_runtime.patches import patchify
from periscope_runtime.recipe import Preparation

_VISUAL = "visual_tokens"


class KeepsImage(Protocol):
    """A language model that can keep an image."""

    def keep_image(self, visual_tokens_JW: Tensor, grids: list[tuple[int, int]]) -> None:
        """Keep visual tokens; `grids` has their rows and columns, or nothing where positions are plain."""


def keeping_image(steps: Iterable[Step], recipe: Recipe) -> tuple[Step, ...]:
    """Return the steps, of which the language model keeps the constant image of the recipe; as they are without one.

    Raises `ExportError` for towers that cannot have one.
    """
    steps = tuple(steps)
    if recipe.preparation.constant_image is None:
        return steps
    vision = next((step for step in steps if any(spec.name == _VISUAL for spec in step.outputs)), None)
    rows = constant_rows(recipe.preparation)
    if vision is None or any(
        isinstance(axis, int) and axis != length
        for spec in vision.inputs
        for axis, length in zip(spec.axes, rows[spec.name].shape, strict=True)
    ):
        raise ExportError(
            f"recipe {recipe.name}: preparation.constant_image is an image that the vision tower of {recipe.backbone} "
            "does not take. Leave it out, or give it the size of a page."
        )
    finish = partial(_keep, recipe, vision)
    return tuple(
        replace(step, after=(vision.name,), finish=finish)
        if any(spec.name == _VISUAL for spec in step.inputs)
        else step
        for step in steps
    )


def constant_rows(preparation: Preparation) -> dict[str, Tensor]:
    """Return what the vision tower reads of the constant image, by name, as of an item of its own."""
    image = preparation.constant_image
    assert image is not None
    page = Image.new("RGB", (image.width, image.height), image.colour)
    rows = image_rows([patchify([page], preparation.page_policy)], preparation.buckets.patches)
    return {name: torch.from_numpy(tensor) for name, tensor in rows.items()}


def _keep(recipe: Recipe, vision: Step, module: KeepsImage, encoder: nn.Module) -> None:
    rows, grid = constant_rows(recipe.preparation), recipe.preparation.constant_grid
    with torch.inference_mode():
        tokens_1VW: Tensor = encoder(*(rows[spec.name] for spec in vision.inputs))
    grids = [grid] if recipe.preparation.positions == "mrope" else []
    # Behind the real ones is padding. A copy: what is made in inference mode cannot be exported.
    module.keep_image(tokens_1VW[0, : grid[0] * grid[1]].clone(), grids)
