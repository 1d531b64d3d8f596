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

    Raises `ValueError` naming every field that is missing, unknown or of another type.
    """
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"recipe.json: it does not parse as JSON: {error}. Export the checkpoint again.") from None
    preparation = recipe.get("preparation", {}) if isinstance(recipe, dict) else {}
    problems = list(_problems(Preparation, preparation, "preparation"))
    if problems:
        raise ValueError(
            f"recipe.json: {'; '.join(problems)}. Export the checkpoint again with this version of periscope."
        )
    try:
        return _build(Preparation, preparation)
    except ValueError as error:
        raise ValueError(f"recipe.json: {error}. Export the checkpoint again with this version of periscope.") from None


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
    nested, hints = _nested(cls), typing.get_type_hints(cls)
    for name in sorted(data.keys() & fields.keys()):
        if name not in nested:
            if not _fits(data[name], hints[name]):
                yield f"{where}.{name} is {data[name]!r}, which is no {_words(hints[name])}"
        elif data[name] is not None or name in required:
            yield from _problems(nested[name], data[name], f"{where}.{name}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is one of the type that a field has."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in inside
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(inside) and all(map(_fits, value, inside))
    if origin is dict:
        keys, values = inside
        return isinstance(value, dict) and all(_fits(key, keys) and _fits(one, values) for key, one in value.items())
    if inside:  # a union
        return any(_fits(value, one) for one in inside)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


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
