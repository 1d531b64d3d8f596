"""Public surfaces are frozen: a change here is a line in the changelog.

The client's names and flags are frozen in tests/client, model and tensor names in tests/e2e/test_contract.py.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from periscope_client.console import COMMANDS
from periscope_export.recipes.schema import Recipe

FLAGS = {
    "recipes": ({"--set"}, ["recipe"]),
    "export": (
        {
            "--recipe",
            "--output",
            "--name",
            "--base",
            "--revision",
            "--precision",
            "--engine",
            "--set",
            "--task",
            "--strip-weights",
            "--version-compatible",
            "--timing-cache",
        },
        ["checkpoint"],
    ),
    "verify": ({"--json"}, ["repository"]),
    "lint": (set(), ["directories"]),
    "serve": (
        {
            "--grpc-port",
            "--http-port",
            "--metrics-port",
            "--host",
            "--start-timeout",
            "--log-verbose",
            "--drain",
            "--verify-files",
        },
        ["directories"],
    ),
    "bench": (
        {"--scenario", "--output", "--quick", "--retriever", "--keep-requests", "--write-configs", "--url"},
        ["repository"],
    ),
}

RECIPE_FIELDS = [
    "name",
    "description",
    "backbone",
    "attention",
    "final_norm",
    "deepstack",
    "tolerance.*.vectors",
    "tolerance.*.cosine",
    "tolerance.*.mean_cosine",
    "tolerance.*.scores",
    "checkpoints[].id",
    "checkpoints[].revision",
    "bases[]",
    "licence",
    "form",
    "mean_rows[]",
    "unused_weights[]",
    "adapters.task",
    "adapters.folder",
    "adapters.merged",
    "preparation.image.patch_size",
    "preparation.image.temporal_patch_size",
    "preparation.image.merge_size",
    "preparation.image.resize[].area.multiple",
    "preparation.image.resize[].area.min_pixels",
    "preparation.image.resize[].area.max_pixels",
    "preparation.image.resize[].area.min_side",
    "preparation.image.resize[].area.clamp_ratio",
    "preparation.image.resize[].stretch.side",
    "preparation.image.resize[].stretch.below",
    "preparation.image.resize[].crop.side",
    "preparation.image.resize[].pad.side",
    "preparation.image.resize[].pad.colour[]",
    "preparation.image.resize[].trim",
    "preparation.image.min_pixels",
    "preparation.image.max_pixels",
    "preparation.image.side",
    "preparation.image.tiles.side",
    "preparation.image.tiles.closest_ratio.max_tiles",
    "preparation.image.tiles.closest_ratio.min_tiles",
    "preparation.image.tiles.any_resolution.resolutions[][]",
    "preparation.image.tiles.thumbnail",
    "preparation.image.window_size",
    "preparation.image.max_aspect_ratio",
    "preparation.image.resample",
    "preparation.image.mean[]",
    "preparation.image.std[]",
    "preparation.image_token",
    "preparation.images.image",
    "preparation.images.most",
    "preparation.constant_image.width",
    "preparation.constant_image.height",
    "preparation.constant_image.colour[]",
    "preparation.positions",
    "preparation.text_rules[]",
    "preparation.pooling",
    "preparation.special_tokens",
    "preparation.unpooled_tokens[]",
    "preparation.added_tokens[]",
    "preparation.prompts.*.*",
    "preparation.augmentation.token",
    "preparation.augmentation.count",
    "preparation.instruction.default",
    "preparation.instruction.rules[]",
    "preparation.instruction.prompt",
    "preparation.instruction.roles",
    "preparation.tasks.*.instruction",
    "preparation.tasks.*.adapter",
    "preparation.tasks.*.prompts.*",
    "preparation.task",
    "preparation.pair.prompt",
    "preparation.pair.contents.*",
    "preparation.video.max_frames",
    "preparation.video.fps",
    "preparation.video.frame_multiple",
    "preparation.video.min_pixels",
    "preparation.video.max_pixels",
    "preparation.video.total_pixels",
    "preparation.video.frame",
    "preparation.buckets.patches",
    "preparation.buckets.page_tokens",
    "preparation.buckets.text_tokens",
    "preparation.limits.image_bytes",
    "preparation.limits.image_pixels",
    "preparation.limits.text_bytes",
    "preparation.limits.text_tokens",
    "preparation.limits.tokens",
    "preparation.limits.role_tokens.*",
    "outputs.late.projection",
    "outputs.dense.dimensions",
    "outputs.dense.layers[].path",
    "outputs.dense.layers[].inputs",
    "outputs.dense.layers[].outputs",
    "outputs.dense.layers[].bias",
    "outputs.dense.layers[].activation",
    "outputs.rerank.positive",
    "outputs.rerank.negative",
    "outputs.rerank.layers[].names[]",
    "outputs.rerank.layers[].bias",
    "outputs.rerank.layers[].activation",
    "outputs.rerank.offset",
    "batch.text",
    "batch.page",
    "batch.video",
    "batch.pair",
    "checkpoint_values.*.from[]",
    "checkpoint_values.*.template",
    "checkpoint_values.*.behind",
    "checkpoint_values.*.ask_above",
    "checkpoint_values.*.at_most.*",
    "checkpoint_requires.*",
    "quantisation.*.*.keep[]",
    "quantisation.*.*.per_token[]",
    "reference.package",
    "reference.version",
    "reference.note",
    "reference.max_abs_error",
    "published[].benchmark",
    "published[].metric",
    "published[].value",
    "published[].checkpoint",
    "published[].source",
]


def test_commands() -> None:
    assert set(COMMANDS) == {*FLAGS, "embed", "search", "rerank"}


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(COMMANDS[name].module).add_arguments(parser)
    flags, positional = FLAGS[name]
    assert {flag for action in parser._actions for flag in action.option_strings} == flags
    assert [action.dest for action in parser._actions if not action.option_strings] == positional


def test_recipe_fields() -> None:
    schema = Recipe.model_json_schema()
    assert sorted(paths(schema, schema["$defs"])) == sorted(RECIPE_FIELDS)


def paths(schema: dict[str, Any], definitions: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields that a schema allows: `.*` for any key, `[]` for the items of a list."""
    schema = definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    objects = [option for option in schema.get("anyOf", []) if "$ref" in option]
    if objects:
        yield from paths(objects[0], definitions, prefix)
    elif schema.get("properties"):
        for name, inner in schema["properties"].items():
            yield from paths(inner, definitions, f"{prefix}.{name}" if prefix else name)
    elif schema.get("type") == "array":
        items = schema.get("items") or schema["prefixItems"][0]
        yield from paths(items, definitions, f"{prefix}[]")
    elif isinstance(inner := schema.get("additionalProperties"), dict):
        yield from paths(inner, definitions, f"{prefix}.*")
    else:
        yield prefix
