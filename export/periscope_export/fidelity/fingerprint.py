"""The fingerprint: a digest of all that decides vectors. Vectors of different fingerprints are never compared.

The weights of each step are added to it as they are read (`models/weights.py`).
"""

from __future__ import annotations

import json

from periscope_export.recipes.schema import Recipe

# What of a recipe decides the vectors; buckets, limits and texts about the recipe do not.
_VECTOR_FIELDS = ("backbone", "attention")
_OTHER_PREPARATION_FIELDS = ("buckets", "limits")


def vector_fields(recipe: Recipe, precision: str) -> bytes:
    """Return the canonical JSON of a recipe's fields that decide vectors in a precision."""
    # What says nothing new stays out: a field that a later version adds changes no fingerprint by its default.
    told = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    fields = {name: told[name] for name in (*_VECTOR_FIELDS, "outputs")}
    if precision in recipe.quantisation:
        fields["quantisation"] = told["quantisation"][precision]
    preparation = told["preparation"]
    fields["preparation"] = {name: preparation[name] for name in preparation.keys() - set(_OTHER_PREPARATION_FIELDS)}
    return json.dumps({**fields, "precision": precision}, sort_keys=True).encode()
