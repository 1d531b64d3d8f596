"""The fingerprint: a digest of all that decides vectors. Vectors of different fingerprints are never compared.

Recipe, precision, sizes and constants of the towers, and tokenizer are in it from the start. The export adds the digest
of the weights, as they are stored (`models/towers.py`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from periscope_export.models.steps import Step
from periscope_export.recipes.schema import Recipe

# Fields of a recipe that decide vectors; what says where weights lie does not, the weights themselves do.
_VECTOR_FIELDS = ("backbone", "attention", "final_norm", "deepstack", "mean_rows")
_PLACES = {"projection", "names", "path"}
_OTHER_PREPARATION_FIELDS = {"buckets", "limits"}
# Parts of a tokenizer.json that preparation switches off, and the version of its form.
_OTHER_TOKENIZER_FIELDS = {"truncation", "padding", "version"}


def begin(recipe: Recipe, precision: str, steps: Iterable[Step], tokenizer: Path) -> hashlib._Hash:
    """Return the digest of everything but the weights; `tokenizer` is a tokenizer.json."""
    told = {
        **vector_fields(recipe, precision),
        "steps": {step.name: [_fields(one) for one in step.constants] for step in steps},
        "tokenizer": tokenizer_fields(json.loads(tokenizer.read_text(encoding="utf-8"))),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode())


def vector_fields(recipe: Recipe, precision: str) -> dict[str, Any]:
    """Return a recipe's fields that decide vectors in a precision."""
    # Defaults stay out: a field that a later version adds changes no fingerprint by its default.
    told = recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    fields = {name: told[name] for name in _VECTOR_FIELDS if name in told}
    fields["outputs"] = _without(told["outputs"], _PLACES)
    if precision in recipe.quantisation:
        fields["quantisation"] = told["quantisation"][precision]
    preparation = told["preparation"]
    fields["preparation"] = {name: preparation[name] for name in preparation.keys() - _OTHER_PREPARATION_FIELDS}
    return {**fields, "precision": precision}


def tokenizer_fields(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Return what of a tokenizer.json decides ids, whichever version of the package has written it."""
    fields = {name: one for name, one in tokenizer.items() if name not in _OTHER_TOKENIZER_FIELDS}
    model = fields.get("model")
    if isinstance(model, dict) and isinstance(model.get("merges"), list):
        # Pairs, which earlier versions wrote as one text.
        merges = [one.split(" ", 1) if isinstance(one, str) else one for one in model["merges"]]
        fields["model"] = {**model, "merges": merges}
    return fields


def _fields(value: Any) -> Any:
    """Return dataclasses as their fields by name, those left out that hold their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {field.name: _fields(one) for field, one in named if one != field.default}
    return [_fields(one) for one in value] if isinstance(value, list | tuple) else value


def _without(value: Any, names: set[str]) -> Any:
    """Return JSON in which fields of some names say only that they are there."""
    if isinstance(value, dict):
        return {name: True if name in names else _without(one, names) for name, one in value.items()}
    return [_without(one, names) for one in value] if isinstance(value, list) else value
