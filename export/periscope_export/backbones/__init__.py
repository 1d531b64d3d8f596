"""Backbones by the name that recipes use. A folder each, always with the same four files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from periscope_export.backbones.jina_clip import config as jina_clip_config
from periscope_export.backbones.jina_clip import names as jina_clip_names
from periscope_export.backbones.jina_clip import steps as jina_clip_steps
from periscope_export.backbones.paligemma import config as paligemma_config
from periscope_export.backbones.paligemma import names as paligemma_names
from periscope_export.backbones.paligemma import steps as paligemma_steps
from periscope_export.backbones.qwen2_vl import config as qwen2_vl_config
from periscope_export.backbones.qwen2_vl import names as qwen2_vl_names
from periscope_export.backbones.qwen2_vl import steps as qwen2_vl_steps
from periscope_export.backbones.qwen3_vl import names as qwen3_vl_names
from periscope_export.backbones.qwen3_vl import steps as qwen3_vl_steps
from periscope_export.recipe import Recipe
from periscope_export.steps import Step


@dataclass(frozen=True)
class Backbone:
    """What a family of published models brings.

    `canonical` maps a stored weight name of any known layout to the one that the towers use, `unused` matches the
    canonical names that no retriever needs, `defaults` are those of the published classes that a config.json may leave
    out, by section, `width` is that of the hidden states, `image_token_id` the id that visual tokens replace (None
    without a language model over images), `language_head` the canonical name of the weight whose rows score the next
    token (None where there is none), `steps` makes the towers.
    """

    canonical: Callable[[str], str]
    unused: str
    defaults: Mapping[str, Mapping[str, Any]]
    width: Callable[[Mapping[str, Any]], int]
    image_token_id: Callable[[Mapping[str, Any]], int | None]
    language_head: Callable[[Mapping[str, Any]], str] | None
    steps: Callable[[Mapping[str, Any], Recipe], tuple[Step, ...]]


BACKBONES: dict[str, Backbone] = {
    "jina_clip": Backbone(
        canonical=jina_clip_names.canonical,
        unused=jina_clip_names.UNUSED,
        defaults=jina_clip_config.DEFAULTS,
        width=jina_clip_steps.width,
        image_token_id=lambda config: None,
        language_head=None,
        steps=jina_clip_steps.steps,
    ),
    "paligemma": Backbone(
        canonical=paligemma_names.canonical,
        unused=paligemma_names.UNUSED,
        defaults=paligemma_config.DEFAULTS,
        width=paligemma_steps.width,
        image_token_id=paligemma_steps.image_token_id,
        language_head=None,
        steps=paligemma_steps.steps,
    ),
    "qwen2_vl": Backbone(
        canonical=qwen2_vl_names.canonical,
        unused=qwen2_vl_names.UNUSED,
        defaults=qwen2_vl_config.DEFAULTS,
        width=qwen2_vl_steps.width,
        image_token_id=qwen2_vl_steps.image_token_id,
        language_head=qwen2_vl_steps.language_head,
        steps=qwen2_vl_steps.steps,
    ),
    "qwen3_vl": Backbone(
        canonical=qwen3_vl_names.canonical,
        unused=qwen3_vl_names.UNUSED,
        defaults={},
        width=qwen3_vl_steps.width,
        image_token_id=qwen3_vl_steps.image_token_id,
        language_head=qwen3_vl_steps.language_head,
        steps=qwen3_vl_steps.steps,
    ),
}
