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
from periscope_export.recipe import load_recipe

FLAGS = {
    "recipes": (set(), []),
    "export": (
        {
            "--recipe",
            "--output",
            "--name",
            "--base",
            "--revision",
            "--precision",
            "--engine",
            "--strip-weights",
            "--version-compatible",
            "--timing-cache",
        },
        ["checkpoint"],
    ),
    "verify": ({"--json"}, ["repository"]),
    "lint": (set(), ["directories"]),
    "serve": (
        {"--grpc-port", "--http-port", "--metrics-port", "--host", "--start-timeout", "--log-verbose"},
        ["directories"],
    ),
}

RECIPE_FIELDS = {
    "name",
    "description",
    "checkpoints.id",
    "checkpoints.revision",
    "backbone",
    "attention",
    "preparation.image.patch_size",
    "preparation.image.temporal_patch_size",
    "preparation.image.merge_size",
    "preparation.image.min_pixels",
    "preparation.image.max_pixels",
    "preparation.image.max_aspect_ratio",
    "preparation.image.resample",
    "preparation.image.mean",
    "preparation.image.std",
    "preparation.image_token",
    "preparation.positions",
    "preparation.prompts.query.text",
    "preparation.prompts.document.image",
    "preparation.buckets.patches",
    "preparation.buckets.page_tokens",
    "preparation.buckets.text_tokens",
    "preparation.limits.image_bytes",
    "preparation.limits.image_pixels",
    "preparation.limits.text_bytes",
    "preparation.limits.text_tokens",
    "preparation.augmentation.token",
    "preparation.augmentation.count",
    "outputs.late.projection",
    "outputs.dense.pooling",
    "batch.text",
    "batch.page",
    "checkpoint_values.set",
    "checkpoint_values.from",
    "checkpoint_values.template",
    "checkpoint_requires.from",
    "checkpoint_requires.equals",
    "tolerance.fp32",
    "tolerance.fp16",
    "tolerance.bf16",
    "tolerance.int8",
    "tolerance.fp8",
    "quantisation.int8.vision_encoder",
    "quantisation.int8.language_model",
    "quantisation.fp8.vision_encoder",
    "quantisation.fp8.language_model",
    "reference.package",
    "reference.version",
    "reference.note",
    "reference.max_abs_error",
}


def test_commands() -> None:
    assert set(COMMANDS) == {*FLAGS, "embed", "search"}


@pytest.mark.parametrize("name", FLAGS)
def test_flags(name: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(COMMANDS[name].module).add_arguments(parser)
    flags, positional = FLAGS[name]
    assert {flag for action in parser._actions for flag in action.option_strings} == flags
    assert [action.dest for action in parser._actions if not action.option_strings] == positional


def test_recipe_fields() -> None:
    fields = {path for name in ("colqwen2", "colqwen2_dense") for path in paths(load_recipe(name).served())}
    # Where there is no dense output and no checkpoint, the path ends earlier.
    assert fields - {"outputs.dense", "checkpoints"} == RECIPE_FIELDS


def paths(value: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields; lists of objects count once."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner in value:
            yield from paths(inner, prefix)
    else:
        yield prefix
