"""Reading recipes: packaged ones by name, the user's own by file, each on top of what it extends.

recipe = load_recipe("colqwen2")
recipe = load_recipe("./mine.yaml")     # which may begin with `extends: colqwen2`, or with a file beside it

What the systems of a family have in common lies in `families/`: it is extended, and is no system itself.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from periscope_export.errors import ExportError
from periscope_export.recipes.checking import validate
from periscope_export.recipes.schema import Recipe

_PACKAGED = Path(__file__).parent
_FAMILIES = _PACKAGED / "families"
_ENDINGS = (".yaml", ".yml")


def recipe_names() -> list[str]:
    """Names of all packaged recipes, sorted."""
    return _names(_PACKAGED)


def family_names() -> list[str]:
    """Names of what packaged recipes extend that are no systems, sorted."""
    return _names(_FAMILIES)


def is_file(recipe: str) -> bool:
    """Whether a user means a file of their own: it ends as YAML does, or there is a separator in it."""
    return recipe.endswith(_ENDINGS) or "/" in recipe or os.sep in recipe


def unknown(name: str, extended: str = "") -> str:
    """Say that there is no recipe of this name, and which there are, the nearest first."""
    near = difflib.get_close_matches(name, recipe_names(), n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"there is no recipe {name!r}{extended}.{meant} Use one of: {', '.join(recipe_names())}; or a file, by a path "
        "that ends in .yaml."
    )


def load_recipe(recipe: str) -> Recipe:
    """Read and check one recipe, by name or by file.

    Raises `ExportError` for an unknown name, for the base of a family, for a file that cannot be read or is no YAML,
    and with every field that is wrong.
    """
    if recipe in family_names():
        raise ExportError(
            f"recipe: {recipe} is what the recipes of a family have in common, and no system. Use one of: "
            f"{', '.join(recipe_names())}; or a file of your own that extends it."
        )
    return validate(_read(recipe), recipe)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return both: mappings field by field, of everything else what is in `over`.

    >>> merged({"batch": {"text": 16, "page": 4}, "name": "a"}, {"batch": {"page": 8}, "name": "b"})
    {'batch': {'text': 16, 'page': 8}, 'name': 'b'}
    """
    both = [key for key in under.keys() & over.keys() if isinstance(under[key], dict) and isinstance(over[key], dict)]
    return {**under, **over, **{key: merged(under[key], over[key]) for key in both}}


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def _read(recipe: str, heirs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the fields of a recipe on top of those of all that it extends, the last of which wins."""
    if recipe in heirs:
        raise ExportError(f"recipe: {' extends '.join((*heirs, recipe))}. Let one of them stand alone.")
    data = _parsed(recipe, _text(recipe, heirs))
    parents = data.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ExportError(f"recipe {recipe}: extends is {parents!r}. Name a recipe there, or a list of them.")
    fields: dict[str, Any] = {}
    for parent in parents:
        fields = merged(fields, _read(_beside(recipe, parent), (*heirs, recipe)))
    return merged(fields, data)


def _beside(heir: str, parent: str) -> str:
    """Return what a file extends: a name stays one, a file lies beside its heir."""
    return os.path.normpath(Path(heir).parent / parent) if is_file(parent) else parent


def _text(recipe: str, heirs: tuple[str, ...]) -> str:
    extended = f" (extended by {heirs[-1]!r})" if heirs else ""
    if is_file(recipe):
        place = Path(recipe)
    elif recipe in (*recipe_names(), *family_names()):
        place = (_FAMILIES if recipe in family_names() else _PACKAGED) / f"{recipe}.yaml"
    else:
        raise ExportError(f"recipe: {unknown(recipe, extended)}")
    try:
        return place.read_text(encoding="utf-8")
    except OSError as error:
        raise ExportError(
            f"recipe: {recipe}{extended} cannot be read: {error.strerror}. Give the path of a recipe's file, or one "
            f"of: {', '.join(recipe_names())}."
        ) from None
    except UnicodeDecodeError:
        raise ExportError(f"recipe: {recipe}{extended} is no text in UTF-8. Save it as such.") from None


class _Loader(yaml.SafeLoader):
    """YAML in which a field stands once: of two that are alike, one would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping. Raises `ConstructorError` for a key that is there twice."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
        return super().construct_mapping(node, deep)


def _parsed(recipe: str, text: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f"line {mark.line + 1}: "
        what = getattr(error, "problem", None) or "it cannot be parsed"
        raise ExportError(f"recipe: {recipe} is no YAML of a recipe: {where}{what}. Correct it.") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ExportError(f"recipe: {recipe} holds no fields. docs/recipes.md lists those of a recipe.")
    return data
