"""Reads `recipe.json`, which lies beside the tokenizer; the section `preparation` is all that the runtime looks at."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from periscope_runtime.recipe import Preparation

_Fields = TypeVar("_Fields")


def load_preparation(path: Path) -> Preparation:
    """Read the preparation section of an exported `recipe.json`.

    Raises `ValueError` naming every missing and unknown field.
    """
    recipe = json.loads(path.read_text(encoding="utf-8"))
    preparation = recipe.get("preparation", {}) if isinstance(recipe, dict) else {}
    problems = list(_problems(Preparation, preparation, "preparation"))
    if problems:
        raise ValueError(
            f"recipe.json: {'; '.join(problems)}. Export the checkpoint again with this version of periscope."
        )
    return _build(Preparation, preparation)


def _problems(cls: type[Any], data: Any, where: str) -> Iterator[str]:
    if not isinstance(data, dict):
        yield f"{where} has no fields"
        return
    fields = {one.name: one for one in dataclasses.fields(cls)}
    required = {
        name
        for name, one in fields.items()
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    }
    yield from (f"{where}.{name} is missing" for name in sorted(required - data.keys()))
    yield from (f"{where}.{name} is unknown" for name in sorted(data.keys() - fields.keys()))
    for name, nested in _nested(cls).items():
        if name in data and (data[name] is not None or name in required):
            yield from _problems(nested, data[name], f"{where}.{name}")


def _build(cls: type[_Fields], data: dict[str, Any]) -> _Fields:
    nested = _nested(cls)

    def convert(name: str, value: Any) -> Any:
        if name in nested and value is not None:
            return _build(nested[name], value)
        return tuple(value) if isinstance(value, list) else value

    return cls(**{name: convert(name, value) for name, value in data.items()})


def _nested(cls: type[Any]) -> dict[str, type[Any]]:
    """Return the fields that are dataclasses themselves, optional ones included."""
    hints = {name: (hint, *typing.get_args(hint)) for name, hint in typing.get_type_hints(cls).items()}
    return {
        name: kind
        for name, kinds in hints.items()
        for kind in kinds
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
