"""Problems with the fields of a recipe, each by its dotted path, and the field that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from periscope_export.errors import ExportError
from periscope_export.recipes.schema import Recipe

# Names that pydantic has for a field that there is not, in a model and in a dataclass.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def validate(data: Mapping[str, Any], what: str, remedy: str = "Correct these fields.") -> Recipe:
    """Check the fields of a recipe. Raises `ExportError` with every one that is wrong."""
    try:
        return TypeAdapter(Recipe).validate_python(data)
    except ValidationError as error:
        raise ExportError(f"recipe {what}: {problems(error)}. {remedy}") from None


def problems(error: ValidationError) -> str:
    """Return what is wrong with each field, of all that pydantic found."""
    return "; ".join(map(_problem, error.errors()))


def unknown_field(field: str, settable: tuple[str, ...] = ()) -> str:
    """Say that there is no such field, and the nearest that there is; of equally near ones, that of this name.

    `settable` are the sections that there is a choice of, all where it is empty.
    """
    last, fields = field.rpartition(".")[2], [one for one in _fields() if not settable or one.startswith(settable)]
    near = [one for one in fields if one.rpartition(".")[2] == last] or difflib.get_close_matches(field, fields, n=1)
    meant = f", the nearest is {near[0]!r}" if near else ", docs/recipes.md lists those that there are"
    return f"there is no field {field!r}{' that can be set' if settable else ''}{meant}"


def _problem(item: ErrorDetails) -> str:
    field = ".".join(map(str, item["loc"]))
    if item["type"] in _UNKNOWN:
        return unknown_field(field)
    message = item["msg"].removeprefix("Value error, ")
    return f"{field}: {message}" if field else message


@cache
def _fields() -> list[str]:
    schema = Recipe.model_json_schema()
    return list(_paths(schema, schema["$defs"]))


def _paths(schema: Mapping[str, Any], definitions: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Dotted paths of all fields that a schema names, sections before what is in them."""
    options = [schema, *schema.get("anyOf", ())]
    for option in options:
        named = definitions[option["$ref"].rpartition("/")[2]] if "$ref" in option else option
        for name, inner in named.get("properties", {}).items():
            yield f"{above}{name}"
            yield from _paths(inner, definitions, f"{above}{name}.")
