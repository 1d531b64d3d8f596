"""The keys of an adapter file: the weight that each changes, and its part in the change.

PEFT writes `base_model.model.<module>.<part>`, and training may wrap more around a module (`names.py`). The state dict
of a live model has the adapter's name inside the part as well (`lora_A.default.weight`), and both forms are found in
published files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from periscope_export.checkpoint.names import unwrapped

Part = Literal["A", "B", "embedding_A", "embedding_B", "magnitude_vector", "added_bias", "saved", "base"]

_LORA = re.compile(r"^(?P<module>.+?)\.(?P<matrix>lora_[A-Za-z_]+)(?P<rest>(?:\.[^.]+)*)$")
# With the adapter's name taken out, what is left of a key after its module.
_PARTS: dict[str, Part] = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_B.bias": "added_bias",
    "lora_embedding_A": "embedding_A",
    "lora_embedding_B": "embedding_B",
    "lora_magnitude_vector": "magnitude_vector",
    "lora_magnitude_vector.weight": "magnitude_vector",
}
_SAVED_MODULE = re.compile(r"\.modules_to_save(?:\.(?P<adapter>[^.]+)(?=\.))?(?=\.[^.]+)")
# Copies that a live model keeps of what it replaces, and parts of other methods.
_FOREIGN = re.compile(r"\.(original_module|token_adapter|parametrizations)\.")


class AdapterKey(NamedTuple):
    """A key taken apart: `weight` is the name of the changed weight in the layout of the file."""

    module: str
    weight: str
    part: Part
    adapter: str | None


@dataclass
class Edit:
    """All that an adapter stores about one weight: module and weight as the file names them, the key of each part."""

    module: str
    weight: str
    parts: dict[Part, str] = field(default_factory=dict)

    @property
    def replacement(self) -> str | None:
        """Key of the tensor that stands in for the base's, if any."""
        return self.parts.get("saved", self.parts.get("base"))

    @property
    def changes(self) -> dict[Part, str]:
        """The parts that are merged into the weight, whichever it is."""
        return {part: key for part, key in self.parts.items() if part not in ("saved", "base")}

    @property
    def matrices(self) -> tuple[Part, Part]:
        """Names of the two parts of the low-rank product."""
        embedding = "embedding_A" in self.parts or "embedding_B" in self.parts
        return ("embedding_A", "embedding_B") if embedding else ("A", "B")


def take_apart(key: str) -> AdapterKey | None:
    """Return what a key says, or None for a key that is no part of a LoRA or DoRA adapter."""
    name = unwrapped(key)
    if match := _LORA.match(name):
        module, matrix, rest = match["module"], match["matrix"], match["rest"].split(".")[1:]
        kind = rest.pop() if rest and rest[-1] in ("weight", "bias") else ""
        part = _PARTS.get(f"{matrix}.{kind}" if kind else matrix)
        if part is None or len(rest) > 1:
            return None
        weight = "bias" if part == "added_bias" else "weight"
        return AdapterKey(module, f"{module}.{weight}", part, rest[0] if rest else None)
    if _FOREIGN.search(f".{name}") or "." not in name:
        return None
    saved = _SAVED_MODULE.search(name)
    name = _SAVED_MODULE.sub("", name)
    part = "base" if ".base_layer." in name else "saved"
    name = name.replace(".base_layer.", ".")
    return AdapterKey(name.rpartition(".")[0], name, part, saved["adapter"] if saved else None)


def adapters_of(keys: Iterable[str]) -> list[str]:
    """Names of the adapters that keys of a file are of, sorted; none where keys name no adapter."""
    taken = (take_apart(key) for key in keys)
    return sorted({one.adapter for one in taken if one is not None and one.adapter is not None})


def sort_keys(
    keys: Iterable[str], canonical: Callable[[str], str], adapter: str | None = None
) -> tuple[dict[str, Edit], list[str]]:
    """Group keys by the canonical name of the weight they change; also return a line for each key that cannot be.

    Of a file with several adapters, `adapter` is the name of the one whose keys count, beside those that name none.
    """
    edits: dict[str, Edit] = {}
    problems: list[str] = []
    adapters: dict[str, str] = {}
    for key in keys:
        taken = take_apart(key)
        if taken is None:
            problems.append(f"{key}: not a key of a LoRA or DoRA adapter")
            continue
        if adapter is not None and taken.adapter not in (None, adapter):
            continue
        if taken.adapter is not None:
            adapters.setdefault(taken.adapter, key)
        edit = edits.setdefault(canonical(taken.weight), Edit(taken.module, taken.weight))
        # A whole weight of none of several adapters lies under all of them.
        shared = adapter is not None and taken.adapter is None and taken.part == "saved"
        other = edit.parts.setdefault("base" if shared else taken.part, key)
        if other != key:
            problems.append(f"{key}: the same part of the same weight as {other}")
    if len(adapters) > 1:
        problems += [f"{key}: of adapter {name!r}, one of several in this file" for name, key in adapters.items()]
    return edits, problems
