"""Reads `recipe.json`, which lies beside the tokenizer; the section `preparation` is all that the runtime looks at."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from periscope_runtime.recipe import Preparation


def load_preparation(path: Path) -> Preparation:
    """Read the preparation section of an exported `recipe.json`.

    Raises `ValueError` naming every field that is missing, unknown or of another type, and all that do not go together.
    """
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"recipe.json: it does not parse as JSON: {error}. Export the checkpoint again.") from None
    preparation = recipe.get("preparation", {}) if isinstance(recipe, dict) else {}
    problems = list(_problems(Preparation, preparation, "preparation"))
    found = None if problems else _build(Preparation, preparation, problems)
    if problems:
        raise ValueError(
            f"recipe.json: {'; '.join(problems)}. Export the checkpoint again with this version of periscope."
        )
    assert isinstance(found, Preparation)
    return found


def _problems(hint: Any, value: Any, where: str) -> Iterator[str]:
    """Reasons why a value of JSON is none of the type that a field has."""
    section = _section(hint)
    if section is None:
        if not _fits(value, hint):
            yield f"{where} is {value!r}, which is no {_words(hint)}"
    elif _is_list(hint):
        if not isinstance(value, list):
            yield f"{where} is {value!r}, which is no list"
            return
        for number, one in enumerate(value):
            yield from _problems(section, one, f"{where}.{number}")
    elif typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            yield f"{where} has no fields"
            return
        for name, one in value.items():
            yield from _problems(section, one, f"{where}.{name}")
    elif value is not None or hint is section:
        yield from _of_fields(section, value, where)


def _of_fields(section: type[Any], data: Any, where: str) -> Iterator[str]:
    if not isinstance(data, dict):
        yield f"{where} has no fields"
        return
    fields = {one.name: one for one in dataclasses.fields(section)}
    required = {
        name
        for name, one in fields.items()
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
    }
    yield from (f"{where}.{name} is missing" for name in sorted(required - data.keys()))
    yield from (f"{where}.{name} is unknown" for name in sorted(data.keys() - fields.keys()))
    hints = typing.get_type_hints(section)
    for name in sorted(data.keys() & fields.keys()):
        yield from _problems(hints[name], data[name], f"{where}.{name}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON is one of a type that has no sections."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return value in inside
    if _is_list(hint):
        return isinstance(value, list) and all(_fits(one, inside[0]) for one in value)
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


def _build(hint: Any, value: Any, problems: list[str]) -> Any:
    """Return the value of a field; what does not go together is added to the problems, and the rest is no value."""
    section = _section(hint)
    if section is None or value is None:
        return _without_lists(value)
    if _is_list(hint):
        return tuple(_build(section, one, problems) for one in value)
    if typing.get_origin(hint) is dict:
        return {name: _build(section, one, problems) for name, one in value.items()}
    hints, before = typing.get_type_hints(section), len(problems)
    fields = {name: _build(hints[name], one, problems) for name, one in value.items()}
    try:
        return section(**fields) if len(problems) == before else None
    except ValueError as error:
        problems.append(str(error))
        return None


def _without_lists(value: Any) -> Any:
    return tuple(map(_without_lists, value)) if isinstance(value, list) else value


def _section(hint: Any) -> type[Any] | None:
    """Return the dataclass that a field holds, alone, in a list or by name, or if anything; None for one without."""
    kinds = (hint, *typing.get_args(hint))
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple and typing.get_args(hint)[-1] is Ellipsis
