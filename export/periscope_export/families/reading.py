"""Reading a `config.json` strictly: what is missing and what the towers do not have, all of it at once.

transformers 4.45 to 4.49 left out of a nested section what equals the default of its class, as do some files that were
written by hand. These defaults stand in each family's reader, for the sections and fields that published files lack.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeGuard

from periscope_export.checkpoint.stored_values import at
from periscope_export.errors import ExportError

# The place of a setting, the section itself, its name, and the values that the towers have: the first is the default.
Setting = tuple[str, Mapping[str, Any], str, tuple[Any, ...]]

# Sizes of a `DecoderConfig` by the names that the sections of language models have for them.
DECODER = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "mlp": "intermediate_size",
    "vocabulary": "vocab_size",
    "eps": "rms_norm_eps",
}

# Parts of a config that are mappings, wherever they stand.
_SECTIONS = {"vlm_config", "text_config", "vision_config", "rope_scaling", "rope_parameters", "hf_model_config_kwargs"}


class Sibling(NamedTuple):
    """A system whose config is easily taken for a family's: the field and the value that show it, its name, and how it
    differs.
    """

    field: str
    value: str
    name: str
    difference: str


def refuse_others(
    family: str, config: Mapping[str, Any], model_types: tuple[str, ...], siblings: Iterable[Sibling]
) -> None:
    """Raise `ExportError` for a config of another system, by its name where it is known, and for one whose sections are
    none.
    """
    _check_sections("", config)
    for sibling in siblings:
        if at(config, sibling.field) == sibling.value:
            raise ExportError(
                f"config.json: this is a {sibling.name} ({sibling.field} is {sibling.value!r}), not a {family}: "
                f"{sibling.difference}. Use the recipe of that system, if `periscope recipes` lists one."
            )
    if (found := config.get("model_type")) not in (None, *model_types):
        raise ExportError(
            f"config.json: this is a model of another kind (model_type is {found!r}), not a {family} "
            f"({' or '.join(model_types)}). Use the recipe of the system that this checkpoint belongs to."
        )


def _check_sections(where: str, config: object) -> None:
    """Refuse a section that is there and is no mapping, at any depth: every reader takes it for one."""
    if not isinstance(config, Mapping):
        return
    for name in _SECTIONS & config.keys():
        section = config[name]
        if section is not None and not isinstance(section, Mapping):
            raise ExportError(f"config.json: {where}{name} is {section!r}, no section. Download it again.")
        _check_sections(f"{where}{name}.", section)


def completed(config: Mapping[str, Any], defaults: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a config, that inside `vlm_config` where there is one, with the defaults of its sections where they are
    absent; what stands there, null included, stays.
    """
    if inner := config.get("vlm_config"):
        return {**config, "vlm_config": completed(inner, defaults)}
    return {**config, **{name: {**section, **(config.get(name) or {})} for name, section in defaults.items()}}


def sizes(section: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return values of a section by our names of them."""
    return {ours: section[theirs] for ours, theirs in names.items()}


def rotations(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a section says of rotations, theta too where it does.

    Up to transformers 4 theta stands beside `rope_scaling`, from 5 on everything is in `rope_parameters`.
    """
    beside = {"rope_theta": text["rope_theta"]} if "rope_theta" in text else {}
    return {**beside, **(text.get("rope_scaling") or {}), **(text.get("rope_parameters") or {})}


def vision_theta(vision: Mapping[str, Any]) -> float:
    """Return the base of the vision tower's rotations, which few configs hold."""
    return float(rotations(vision).get("rope_theta", 10000.0))


def unsized(values: Mapping[str, Any]) -> list[str]:
    """Return a line for each value, by the name of its place, that is None, or no positive number, nor a list of
    numbers from 0 on.
    """
    problems = [f"{name} is missing" for name, value in values.items() if value is None]
    for name, value in values.items():
        if isinstance(value, list):
            if not all(_is_number(one) and one >= 0 for one in value):
                problems.append(f"{name} is {value!r}, no list of numbers")
        elif value is not None and not (_is_number(value) and value > 0):
            problems.append(f"{name} is {value!r}, no positive number")
    return problems


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def unknown(settings: Iterable[Setting]) -> list[str]:
    """Return a line for each setting that the towers do not have."""
    return [
        f"{where}.{name} is {section[name]!r}, not one of {known}"
        for where, section, name, known in settings
        if section.get(name, known[0]) not in known
    ]


def refuse(family: str, problems: Iterable[str]) -> None:
    """Raise `ExportError` with all problems; do nothing where there is none."""
    if listed := "; ".join(problems):
        raise ExportError(
            f"config.json: not a {family} that can be exported: {listed}. "
            "Use the recipe of the system that this checkpoint belongs to."
        )


def ties(config: Mapping[str, Any], default: bool = False) -> bool:
    """Return whether the language head is the table of embeddings, where a checkpoint stores only one of them.

    Versions of transformers say so for the whole model, for the text model, or for both; a `False` beside a `True` is
    what a class does by default. `default` is for a config that says nothing.
    """
    outer = config.get("vlm_config") or {}
    sections = (config, config.get("text_config") or {}, outer, outer.get("text_config") or {})
    said = [section["tie_word_embeddings"] for section in sections if "tie_word_embeddings" in section]
    return any(said) if said else default
