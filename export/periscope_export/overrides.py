"""What wins over a recipe: the values that a checkpoint stores about itself, and over both those that the user sets.

settings = parse_settings(["preparation.limits.image_pixels=134217728"])   # --set, once for each
recipe, changes = resolve(load_recipe("colqwen2"), checkpoint.json, settings)
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from periscope_export.errors import ExportError
from periscope_export.recipe import Recipe, merged, validate

# A JSON file of the checkpoint by name, or None.
_JsonFile = Callable[[str], dict[str, Any] | None]
# Fields of a recipe by their dotted paths.
Settings = Mapping[str, Any]

# What of a recipe says how the retriever is served; the rest says which retriever it is, and is no setting.
_SETTABLE = ("attention", "preparation", "outputs", "batch", "quantisation", "tolerance")
# What pydantic calls a field that there is not, in a model and in a dataclass.
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """Return the values of `FIELD=VALUE` by their fields, each value read as YAML.

    Raises `ExportError` for what has not this form, for a value that is no YAML, and for a field that is given twice.
    """
    settings: dict[str, Any] = {}
    for one in given:
        field, equals, value = one.partition("=")
        field = field.strip()
        if not field or not equals:
            raise ExportError(
                f"export: --set {one} has not the form FIELD=VALUE. "
                "An example: --set preparation.limits.image_pixels=134217728."
            )
        if field in settings:
            raise ExportError(f"export: --set gives {field} twice. Keep one of them.")
        try:
            settings[field] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ExportError(
                f"export: the value of --set {one} is not YAML ({' '.join(str(error).split())}). Put a text with signs "
                f"of YAML's own into two kinds of quotes: --set '{field}=\"...\"'."
            ) from None
    return settings


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """Return the recipe with what the user sets: mappings are merged field by field, everything else is replaced.

    Raises `ExportError` naming every field that there is not, with the nearest that there is, and every value that
    its field cannot hold.
    """
    over: dict[str, Any] = {}
    for field, value in settings.items():
        for key in reversed(field.split(".")):
            value = {key: value}
        over = merged(over, value)
    data = recipe.served()
    fields = list(_fields({name: data[name] for name in _SETTABLE}))
    if fixed := sorted(over.keys() - set(_SETTABLE)):
        raise _refused(
            "; ".join(f"there is no field {name!r} that can be set{_nearest(name, fields)}" for name in fixed)
        )
    try:
        return TypeAdapter(Recipe).validate_python(merged(data, over))
    except ValidationError as error:
        problems = []
        for item in error.errors():
            field = ".".join(map(str, item["loc"]))
            unknown = item["type"] in _UNKNOWN
            problems.append(
                f"there is no field {field!r}{_nearest(field, fields)}"
                if unknown
                else f"{field}: {item['msg'].removeprefix('Value error, ')}"
            )
        raise _refused("; ".join(problems)) from None


def resolve(recipe: Recipe, read_json: _JsonFile, settings: Settings | None = None) -> tuple[Recipe, list[str]]:
    """Apply what the checkpoint stores about itself, then what the user sets.

    Returns the recipe with a line for each value that changed, and for each that was set. `read_json` returns a JSON
    file of the checkpoint by name, or None. Raises `ExportError` naming every requirement that the checkpoint breaks,
    and as `with_settings`.
    """
    broken = [
        f"{requirement.source} is {found!r}, this system needs {requirement.equals!r}"
        for requirement in recipe.checkpoint_requires
        if (found := _look_up(requirement.source, read_json)) is not None and found != requirement.equals
    ]
    if broken:
        raise ExportError(
            f"recipe {recipe.name}: the checkpoint is prepared differently: {'; '.join(broken)}. "
            "Export it with the recipe of the system that it descends from."
        )
    data, changes = recipe.served(), []
    for value in recipe.checkpoint_values:
        for source in value.sources:
            found = _look_up(source, read_json)
            if found is None:
                continue
            new = value.template.replace("{value}", found) if isinstance(found, str) else found
            old = _replace(data, value.field.split("."), new)
            if old != new:
                changes.append(f"the checkpoint says otherwise: {value.field}: {old!r} -> {new!r} ({source})")
            break
    resolved = with_settings(validate(data, recipe.name), settings or {})
    for field in settings or {}:
        changes.append(f"set by --set: {field}: {_at(data, field)!r} -> {_at(resolved.served(), field)!r}")
    return resolved, changes


def _refused(problems: str) -> ExportError:
    return ExportError(f"export: --set: {problems}. Correct what is set.")


def _fields(data: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Dotted paths of all fields, sections included."""
    for name, value in data.items():
        yield f"{above}{name}"
        if isinstance(value, dict):
            yield from _fields(value, f"{above}{name}.")


def _nearest(field: str, fields: Sequence[str]) -> str:
    """Return the field that was probably meant, as the end of a sentence; of equally near ones, that of this name."""
    last = field.rpartition(".")[2]
    near = [one for one in fields if one.rpartition(".")[2] == last] or difflib.get_close_matches(field, fields, n=1)
    return f", the nearest is {near[0]!r}" if near else ", docs/recipes.md lists those that there are"


def _look_up(source: str, read_json: _JsonFile) -> Any:
    """Return the value at `file:path.to.field`, or None where the file or the field is absent."""
    file, _, field = source.partition(":")
    return _at(read_json(file), field)


def _at(value: Any, field: str) -> Any:
    """Return the value at a dotted path, or None where there is none."""
    for key in field.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _replace(data: dict[str, Any], path: list[str], new: Any) -> Any:
    for key in path[:-1]:
        data = data[key]
    old, data[path[-1]] = data[path[-1]], new
    return old
