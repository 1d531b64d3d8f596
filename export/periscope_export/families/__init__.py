"""Backbones by the name that recipes use. A folder each, always with the same four files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from periscope_export.families.jina_clip import config as jina_clip_config
from periscope_export.families.jina_clip import names as jina_clip_names
from periscope_export.families.jina_clip import steps as jina_clip_steps
from periscope_export.families.paligemma import config as paligemma_config
from periscope_export.families.paligemma import names as paligemma_names
from periscope_export.families.paligemma import steps as paligemma_steps
from periscope_export.families.qwen2_vl import config as qwen2_vl_config
from periscope_export.families.qwen2_vl import names as qwen2_vl_names
from periscope_export.families.qwen2_vl import steps as qwen2_vl_steps
from periscope_export.families.qwen3_vl import names as qwen3_vl_names
from periscope_export.families.qwen3_vl import steps as qwen3_vl_steps
from periscope_export.families.reading import ties
from periscope_export.models.steps import Step
from periscope_export.recipes.schema import Recipe


@dataclass(frozen=True)
class Backbone:
    """What a family of published models brings.

    `canonical` maps a stored weight name of any known layout to the one that the towers use, `unused` matches the
    canonical names that no retriever needs, `defaults` are those of the published classes that a config.json may leave
    out, by section, `width` is that of the hidden states, `image_token_id` the id that visual tokens replace (None
    without a language model over images), `embeddings` the canonical name of the table of token embeddings,
    `language_head` that of the weight whose rows score the next token (None where there is none), `tied` says whether a
    checkpoint that stores only one of these two means both, `steps` makes the towers.
    """

    canonical: Callable[[str], str]
    unused: str
    defaults: Mapping[str, Mapping[str, Any]]
    width: Callable[[Mapping[str, Any]], int]
    image_token_id: Callable[[Mapping[str, Any]], int | None]
    embeddings: str
    language_head: str | None
    tied: Callable[[Mapping[str, Any]], bool]
    steps: Callable[[Mapping[str, Any], Recipe], tuple[Step, ...]]

    def tied_names(self, config: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the language head and the table of embeddings where one is both, else None."""
        return (self.language_head, self.embeddings) if self.language_head and self.tied(config) else None


BACKBONES: dict[str, Backbone] = {
    "jina_clip": Backbone(
        canonical=jina_clip_names.canonical,
        unused=jina_clip_names.UNUSED,
        defaults=jina_clip_config.DEFAULTS,
        width=jina_clip_steps.width,
        image_token_id=lambda config: None,
        embeddings="text_model.embeddings.word_embeddings.weight",
        language_head=None,
        tied=lambda config: False,
        steps=jina_clip_steps.steps,
    ),
    "paligemma": Backbone(
        canonical=paligemma_names.canonical,
        unused=paligemma_names.UNUSED,
        defaults=paligemma_config.DEFAULTS,
        width=paligemma_steps.width,
        image_token_id=paligemma_steps.image_token_id,
        embeddings="language_model.embed_tokens.weight",
        language_head="lm_head.weight",
        tied=partial(ties, default=True),
        steps=paligemma_steps.steps,
    ),
    "qwen2_vl": Backbone(
        canonical=qwen2_vl_names.canonical,
        unused=qwen2_vl_names.UNUSED,
        defaults=qwen2_vl_config.DEFAULTS,
        width=qwen2_vl_steps.width,
        image_token_id=qwen2_vl_steps.image_token_id,
        embeddings="language_model.embed_tokens.weight",
        language_head="lm_head.weight",
        tied=ties,
        steps=qwen2_vl_steps.steps,
    ),
    "qwen3_vl": Backbone(
        canonical=qwen3_vl_names.canonical,
        unused=qwen3_vl_names.UNUSED,
        defaults={},
        width=qwen3_vl_steps.width,
        image_token_id=qwen3_vl_steps.image_token_id,
        embeddings="language_model.embed_tokens.weight",
        language_head="lm_head.weight",
        tied=ties,
        steps=qwen3_vl_steps.steps,
    ),
}
