"""The fingerprint changes with what decides vectors, and with nothing else."""

from __future__ import annotations

import json
from typing import Any

from periscope_export.fidelity.fingerprint import vector_fields
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings

LIMIT, PIXELS = "preparation.limits.image_pixels", 134217728


def test_a_setting_changes_the_fingerprint_where_it_decides_vectors() -> None:
    recipe = load_recipe("colqwen2")

    def told(settings: dict[str, Any]) -> bytes:
        return vector_fields(with_settings(recipe, settings), "fp32")

    assert told({LIMIT: PIXELS, "batch.page": 2, "preparation.buckets.text_tokens": 8}) == told({})
    assert told({"preparation.image.max_pixels": 301056}) != told({})
    assert told({"preparation.prompts.query.text": "{text}{augmentation}"}) != told({})


def test_a_dense_output_changes_the_fingerprint_and_its_absence_does_not() -> None:
    """Vectors that were stored before recipes could have one stay comparable."""
    plain, dense = (vector_fields(load_recipe(name), "fp32") for name in ("colqwen2", "colqwen2_dense"))
    assert json.loads(plain)["outputs"].keys() == {"late"}
    assert json.loads(dense)["outputs"] == {**json.loads(plain)["outputs"], "dense": {}}
