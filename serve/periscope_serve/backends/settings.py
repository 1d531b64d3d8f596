"""Settings of all stand-ins: reading numbers and switches, and refusing what is C++ only."""

from __future__ import annotations

from typing import Any

_UNSUPPORTED = ("batch_input", "batch_output", "sequence_batching", "model_operations")
_BOOLEANS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


class SettingsError(Exception):
    """A setting of the model config cannot be honoured."""


def parameters(config: dict[str, Any]) -> dict[str, str]:
    """Return the parameters of a model config."""
    return {name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()}


def integer(parameters: dict[str, str], name: str) -> int:
    """Return a whole number, 0 where the config has none; raises `SettingsError` for anything else."""
    value = parameters.get(name, "0")
    try:
        return int(value)
    except ValueError:
        raise SettingsError(f"parameter {name}: failed to convert '{value}' to integral number") from None


def boolean(parameters: dict[str, str], name: str) -> bool | None:
    """Return a switch, None where the config has none; raises `SettingsError` for anything else."""
    if name not in parameters:
        return None
    try:
        return _BOOLEANS[parameters[name].lower()]
    except KeyError:
        raise SettingsError(f"parameter {name}: failed to convert '{parameters[name]}' to boolean") from None


def ragged(entry: dict[str, Any]) -> bool:
    """Whether an input of the config asks for requests of unequal shape to be joined."""
    return bool(entry.get("allow_ragged_batch"))


def refuse_unsupported(config: dict[str, Any], backend: str) -> None:
    """Raise `SettingsError` when the config uses what only the C++ backend has."""
    used = [name for name in _UNSUPPORTED if config.get(name)]
    used += [f"allow_ragged_batch of '{entry['name']}'" for entry in config.get("input", []) if ragged(entry)]
    if used:
        raise SettingsError(
            f"the config uses {', '.join(used)}, which only Triton's C++ {backend} backend offers. Remove it, or "
            "serve this repository with NVIDIA's container"
        )
