"""Values that win over a recipe: those that a checkpoint stores about itself, and over both those that the user sets.

settings = parse_settings(["preparation.limits.image_pixels=134217728"])   # --set, once for each
recipe, changes = resolve(load_recipe("colqwen2"), checkpoint.json, settings)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError

from periscope_export.checkpoint.stored_values import JsonFile, Stored, at, outdated, stored
from periscope_export.errors import ExportError
from periscope_export.recipes.checking import problems, unknown_field, validate
from periscope_export.recipes.loading import merged
from periscope_export.recipes.schema import CheckpointValue, Recipe

# Fields of a recipe by their dotted paths.
Settings = Mapping[str, Any]

# Fields of a recipe that say how the retriever is served; the rest says which retriever it is, and is no setting.
_SETTABLE = (
    *("attention", "final_norm", "deepstack", "adapters", "mean_rows", "preparation", "outputs"),
    *("batch", "quantisation", "tolerance"),
)


# The field that `--task` sets.
_TASK = "adapters.task"


class _Found(NamedTuple):
    """A field that the checkpoint overrides, and the place in its files that says so."""

    field: str
    value: CheckpointValue
    place: str


def parse_settings(given: Sequence[str], task: str | None = None) -> dict[str, Any]:
    """Return the values of `FIELD=VALUE` by their fields, each value read as YAML; `task` is that of `--task`.

    Raises `ExportError` for what has not this form, for a value that is no YAML, and for a field that is given twice.
    """
    settings: dict[str, Any] = {} if task is None else {_TASK: task}
    for one in given:
        field, equals, value = one.partition("=")
        field = field.strip()
        if not field or not equals:
            raise ExportError(
                f"recipe: --set {one} has not the form FIELD=VALUE. "
                "An example: --set preparation.limits.image_pixels=134217728."
            )
        if field == _TASK and task is not None:
            raise ExportError(f"recipe: --set gives {field}, and so does --task. Keep one of them.")
        if field in settings:
            raise ExportError(f"recipe: --set gives {field} twice. Keep one of them.")
        try:
            settings[field] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ExportError(
                f"recipe: the value of --set {one} is not YAML ({' '.join(str(error).split())}). Put a text with signs "
                f"of YAML's own into two kinds of quotes: --set '{field}=\"...\"'."
            ) from None
    return settings


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """Return the recipe with what the user sets: mappings are merged field by field, everything else is replaced.

    No checkpoint overrides these fields any more, so that the result exports alike as a file. Raises `ExportError`
    naming every field that there is not, with the nearest that there is, and every value that its field cannot hold.
    """
    return _set(recipe.served(), settings)


def resolve(
    recipe: Recipe,
    read_json: JsonFile,
    settings: Settings | None = None,
    note: str | None = None,
    told: Iterable[tuple[str, Any, str]] = (),
) -> tuple[Recipe, list[str]]:
    """Apply what the checkpoint stores about itself, then what the user sets.

    Returns the recipe with a line for each value that changed, for each that was set, and for each that an older file
    of the checkpoint contradicts. `read_json` returns a JSON file of the checkpoint by name, or None; `note` is a
    sentence about where these files come from; `told` are fields, values and places that were found in others. Raises
    `ExportError` naming every requirement that the checkpoint breaks, every value of it that the recipe cannot hold or
    that is taken only if the user sets it, and as `with_settings`.
    """
    settings = settings or {}
    _check_requirements(recipe, read_json)
    data, changes, found = recipe.served(), [] if note is None else [note], list[_Found]()
    for field, value in recipe.checkpoint_values.items():
        if (one := _lowest(value, read_json)) is None:
            continue
        new = value.made(one.value)
        old = _replace(data, field.split("."), new)
        found.append(_Found(field, value, one.place))
        if old != new:
            changes.append(f"the checkpoint says otherwise: {field}: {old!r} -> {new!r} ({one.place})")
    for field, new, place in told:
        if (old := _replace(data, field.split("."), new)) != new:
            changes.append(f"the checkpoint says otherwise: {field}: {old!r} -> {new!r} ({place})")
    looked_at = [value.sources for value in recipe.checkpoint_values.values()]
    looked_at += [[source] for source in recipe.checkpoint_requires]
    changes += [line for sources in looked_at if (line := outdated(sources, read_json)) is not None]
    if settings:
        resolved = _set(data, settings)
    else:
        remedy = f"{'; '.join(changes)}. Export it with the recipe of the system that it descends from, or use --set."
        resolved = validate(data, f"{recipe.name} does not fit the checkpoint", remedy)
    _check_unasked(recipe, resolved, settings, found, note)
    for field in settings:
        changes.append(f"set by --set: {field}: {at(data, field)!r} -> {at(resolved.served(), field)!r}")
    return resolved, changes


def _lowest(value: CheckpointValue, read_json: JsonFile) -> Stored | None:
    """Return what a checkpoint stores for a field: of several upper limits the lowest; one that is no number first."""
    limits = [] if (own := stored(value.sources, read_json)) is None else [own]
    for source, unit in value.at_most.items():
        if (limit := stored([source], read_json)) is not None:
            is_number = isinstance(limit.value, int)
            limits.append(Stored(f"{limit.place} x {unit}", limit.value * unit) if is_number else limit)
    unread = [limit for limit in limits if not isinstance(limit.value, int)]
    return unread[0] if unread else min(limits, key=lambda limit: int(limit.value), default=None)


def _set(data: dict[str, Any], settings: Settings) -> Recipe:
    over = _nested(settings)
    left = {field: value for field, value in data["checkpoint_values"].items() if at(over, field) is None}
    data = {**data, "checkpoint_values": left}
    if fixed := sorted(over.keys() - set(_SETTABLE)):
        raise _refused("; ".join(unknown_field(name, _SETTABLE) for name in fixed))
    try:
        return TypeAdapter(Recipe).validate_python(merged(data, over))
    except ValidationError as error:
        raise _refused(problems(error)) from None


def _check_requirements(recipe: Recipe, read_json: JsonFile) -> None:
    required = [(needed, stored([source], read_json)) for source, needed in recipe.checkpoint_requires.items()]
    if broken := [
        f"{found.place} is {found.value!r}, this system needs {needed!r}"
        for needed, found in required
        if found is not None and found.value != needed
    ]:
        raise ExportError(
            f"recipe {recipe.name}: the checkpoint is prepared differently: {'; '.join(broken)}. "
            "Export it with the recipe of the system that it descends from."
        )


def _check_unasked(
    recipe: Recipe,
    resolved: Recipe,
    settings: Settings,
    found: Sequence[_Found],
    note: str | None,
) -> None:
    """Refuse limits of the checkpoint far above the recipe's that nobody has asked for."""
    ours, theirs, given = recipe.served(), resolved.served(), _nested(settings)
    refused = [
        f"{place} is {new}, {new / old:.0f} times the {old} of the recipe. Say --set {field}={old} to stay with "
        f"the recipe, or --set {field}={new} to follow the checkpoint"
        for field, value, place in found
        if value.ask_above is not None
        and at(given, field) is None
        and (new := at(theirs, field)) > value.ask_above
        and (old := at(ours, field))
    ]
    if refused:
        because = "" if note is None else f" ({note})"
        raise ExportError(f"recipe {recipe.name}: {'; '.join(refused)}{because}.")


def _nested(settings: Settings) -> dict[str, Any]:
    """Return settings as a mapping of mappings, as in a recipe's file."""
    fields: dict[str, Any] = {}
    for field, value in settings.items():
        for key in reversed(field.split(".")):
            value = {key: value}
        fields = merged(fields, value)
    return fields


def _refused(why: str) -> ExportError:
    return ExportError(f"recipe: --set: {why}. Correct what is set.")


def _replace(data: dict[str, Any], path: list[str], new: Any) -> Any:
    for key in path[:-1]:
        data = data[key]
    old, data[path[-1]] = data[path[-1]], new
    return old
