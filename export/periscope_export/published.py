"""A published retriever: a checkpoint seen through its recipe, as steps whose weights are all accounted for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from periscope_export.checkpoint.reading import Checkpoint, WantedAdapters, open_checkpoint
from periscope_export.checkpoint.tokens import check_tokens, read_tokenizer
from periscope_export.errors import ExportError, WrongBaseError
from periscope_export.families import family
from periscope_export.families.reading import completed
from periscope_export.models.added_rows import with_added_rows
from periscope_export.models.direction import with_direction
from periscope_export.models.heads import dense_width
from periscope_export.models.kept_image import keeping_image
from periscope_export.models.outputs import head_steps, with_head_names
from periscope_export.models.steps import Step
from periscope_export.models.task_adapters import stacking
from periscope_export.models.weights import check_weights
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import Settings, resolve, with_settings
from periscope_export.recipes.schema import Recipe
from periscope_export.recipes.sentence_transformers_files import told, with_dense_layers
from periscope_export.recipes.which import known_bases, refuse_base


@dataclass(frozen=True)
class PublishedRetriever:
    """A checkpoint with its recipe, as an export needs it.

    `recipe` already holds what the checkpoint says about itself and what the user sets, `changes` has a line for each
    such value; `steps` are the graphs in order, of no precision yet (see `precision.at`), `width` that of a whole dense
    vector, `image_token_id` the id that visual tokens replace, None where none do.
    """

    recipe: Recipe
    changes: list[str]
    checkpoint: Checkpoint
    tokenizer: Path
    steps: tuple[Step, ...]
    width: int
    image_token_id: int | None

    def check_tokenizer(self, image_token_id: int | None) -> None:
        """Raise `ExportError` unless the tokenizer's id of the image token is the one that the model looks for."""
        if image_token_id != self.image_token_id:
            raise ExportError(
                f"checkpoint: {self.recipe.preparation.image_token} is {image_token_id} in tokenizer.json and "
                f"{self.image_token_id} in config.json. Use the tokenizer that the checkpoint was published with."
            )


def open_retriever(
    location: str,
    recipe_name: str,
    base: str | None = None,
    revision: str | None = None,
    settings: Settings | None = None,
) -> PublishedRetriever:
    """Open a checkpoint (directory or hub id) with a recipe (name or file); no weight is read yet.

    `settings` are recipe fields that the user sets, over the checkpoint's own values. Raises `ExportError` for an
    unknown or wrong recipe, a setting that it cannot hold, an unfit config, a missing tokenizer or one with tokens that
    have no embedding, and with the complete lists of missing, unused and wrongly shaped weights.
    """
    recipe = load_recipe(recipe_name)
    refuse_base(location, recipe)
    # A wrong setting is found before a checkpoint is fetched.
    wanted = with_settings(recipe, settings or {})
    backbone = family(wanted)
    canonical = with_head_names(wanted.outputs, backbone.canonical)
    try:
        checkpoint = open_checkpoint(
            location, base, canonical=canonical, tied=backbone.tied_names, revision=revision, wanted=_adapters(wanted)
        )
    except WrongBaseError as error:
        raise WrongBaseError(f"{error}{known_bases(recipe)}") from error
    # First, so that a checkpoint of another system is called so.
    width = backbone.width(checkpoint.config)
    config = completed(checkpoint.config, backbone.defaults)
    modules, notes = told(checkpoint, recipe, width, settings or {})
    recipe, changes = resolve(
        recipe,
        lambda name: config if name == "config.json" else checkpoint.json(name),
        settings,
        checkpoint.processor_note,
        modules,
    )
    layers = recipe.outputs.dense.layers if recipe.outputs.dense else []
    checkpoint = with_dense_layers(checkpoint, layers, width)
    tokenizer = checkpoint.file("tokenizer.json")
    if tokenizer is None:
        raise ExportError("checkpoint: there is no tokenizer.json. Add the one that the checkpoint was published with.")
    added = recipe.preparation.added_tokens
    tables = [name for name in (backbone.embeddings, backbone.language_head) if name is not None]
    weights, of_tokens = with_added_rows(checkpoint.weights, added, recipe.mean_rows, tables, tokenizer)
    checkpoint = replace(checkpoint, weights=weights)
    if recipe.outputs.rerank is not None and (tokens := recipe.outputs.rerank.tokens):
        vocabulary = read_tokenizer(tokenizer, added)
        checkpoint = with_direction(checkpoint, tokens, backbone.language_head, vocabulary)
    backbone.check(recipe)
    steps = (*backbone.steps(checkpoint.config, recipe), *head_steps(checkpoint.weights, recipe, width))
    weights = checkpoint.weights
    if stacked := recipe.preparation.stacked:
        steps = stacking(steps, weights, stacked)
    steps = keeping_image(steps, recipe)
    check_weights(steps, weights, "|".join([backbone.unused, *map(re.escape, recipe.unused_weights)]))
    check_tokens(tokenizer, weights.info(backbone.embeddings).shape[0], weights.stored_name(backbone.embeddings))
    image_token_id = backbone.image_token_id(checkpoint.config)
    vectors = dense_width(width, layers)
    return PublishedRetriever(
        recipe, [*changes, *notes, *of_tokens], checkpoint, tokenizer, steps, vectors, image_token_id
    )


def _adapters(recipe: Recipe) -> WantedAdapters | None:
    """Return the adapters of tasks; None where there are none, or the weights are complete without."""
    if recipe.adapters is None or recipe.adapters.merged:
        return None
    return WantedAdapters(recipe.preparation.adapters, recipe.adapters.folder)
