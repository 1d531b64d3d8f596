"""Opening a checkpoint: full weights, or an adapter on its base, under one set of names.

    checkpoint = open_checkpoint("vidore/colqwen2-v1.0", canonical=canonical_name)
    for name in checkpoint.weights.keys():
        tensor = checkpoint.weights.read(name)     # merged, where an adapter changes it

Nothing is read until it is asked for, so that loading costs the tensors that the caller keeps and one merge.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from periscope_export.adapter import Adapter
from periscope_export.errors import ExportError
from periscope_export.hub import Location, locate
from periscope_export.weight_source import TensorInfo, WeightSource

__all__ = ["Checkpoint", "TensorInfo", "WeightSource", "Weights", "open_checkpoint"]

Canonical = Callable[[str], str]

# A processor is saved as a whole: an older file of another folder says nothing about it.
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")

_QUANTISED = {torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2}


class Weights:
    """A read-only mapping from canonical weight name to tensor, with adapters applied when a tensor is read.

    Tensors that no adapter changes are views of the file: they must not be changed in place.
    """

    def __init__(
        self,
        source: WeightSource,
        canonical: Canonical,
        adapters: tuple[Adapter, ...] = (),
        made: Mapping[str, tuple[TensorInfo, Callable[[], torch.Tensor]]] | None = None,
    ) -> None:
        """Name what `source` holds. Raises `ExportError` with every pair of stored names that mean the same weight."""
        self._source, self._canonical, self._adapters, self._made = source, canonical, adapters, made or {}
        self._stored: dict[str, str] = {}
        twice: list[str] = []
        for stored in source:
            first = self._stored.setdefault(canonical(stored), stored)
            if first != stored:
                twice.append(f"{first} and {stored}")
        if twice:
            raise ExportError(
                f"checkpoint: one weight under two stored names: {'; '.join(twice)}. Keep one of each in the files."
            )

    def adapt(self, folder: Path, config: dict[str, Any]) -> Weights:
        """Return these weights under the adapter in `folder`. Raises `ExportError` as `Adapter` does."""
        base = {name: self.info(name) for name in self}
        adapter = Adapter(folder, config, base, self._canonical)
        return Weights(self._source, self._canonical, (*self._adapters, adapter))

    def having(self, name: str, info: TensorInfo, read: Callable[[], torch.Tensor]) -> Weights:
        """Return these weights and one that is made of others, when it is read."""
        return Weights(self._source, self._canonical, self._adapters, {**self._made, name: (info, read)})

    def keys(self) -> Iterator[str]:
        """Canonical names, sorted."""
        return iter(sorted(self._stored.keys() | self.adapted() | self._made.keys()))

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def adapted(self) -> set[str]:
        """Canonical names of the weights that an adapter changes or adds."""
        return set().union(*(adapter.keys() for adapter in self._adapters))

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of what `read` returns. Raises `KeyError` for an unknown name."""
        if name in self._made:
            return self._made[name][0]
        for adapter in reversed(self._adapters):
            if name in adapter:
                return adapter.info(name)
        return self._source.info(self._stored[name])

    def read(self, name: str) -> torch.Tensor:
        """The tensor: fp32 where an adapter is merged into it, else as stored. Raises `KeyError` for unknown names."""
        if name in self._made:
            return self._made[name][1]()
        tensor = self._source.read(self._stored[name]) if name in self._stored else None
        for adapter in self._adapters:
            if name in adapter:
                tensor = adapter.apply(name, tensor)
        if tensor is None:
            raise KeyError(name)
        return tensor


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: its weights, its `config.json` (the base's, for an adapter), its other files, and what it is."""

    weights: Weights
    config: dict[str, Any]
    description: str
    folders: tuple[Path, ...]  # where `file` looks: adapters first, the folder of the full weights last

    def file(self, name: str) -> Path | None:
        """Path of a file such as tokenizer.json, the adapter's own before its base's, or None.

        A processor's files all come from the folder that `processor_folder` names.
        """
        # An adapter's config.json, where there is one, does not describe the weights.
        folders = self.folders[-1:] if name == "config.json" else self.folders
        if name in _PROCESSOR_FILES:
            folders = () if self.processor_folder is None else (self.processor_folder,)
        return next((folder / name for folder in folders if (folder / name).is_file()), None)

    @property
    def processor_folder(self) -> Path | None:
        """The first folder that holds any of a processor's files, or None."""
        return next((one for one in self.folders if any((one / name).is_file() for name in _PROCESSOR_FILES)), None)

    @property
    def processor_note(self) -> str | None:
        """A sentence where an adapter's processor files are not its own, else None."""
        if self.processor_folder in (None, self.folders[0]):
            return None
        return "the adapter brings no processor files, these are its base's"

    def json(self, name: str) -> dict[str, Any] | None:
        """Content of a JSON file, found as `file` does, or None. Raises `ExportError` if it holds no JSON object."""
        path = self.file(name)
        return None if path is None else _read_json(path)


def open_checkpoint(
    location: str | Path, base: str | Path | None = None, *, canonical: Canonical, revision: str | None = None
) -> Checkpoint:
    """Open a checkpoint: a directory or a hub id, holding full weights or a PEFT adapter.

    Args:
        location: a directory, `org/name` or `org/name@revision`.
        base: what an adapter was trained on, where `base_model_name_or_path` in its adapter_config.json does not find
            it. It may be an adapter itself.
        canonical: maps a weight name of any layout to the one name used here.
        revision: of a hub id.

    Raises:
        ExportError: nothing is found there; a file cannot be read or is missing; the weights are quantised; an adapter
            cannot be merged; a base is given for full weights, or missing for an adapter.
    """
    return _open(locate(location, revision), base, canonical, seen=())


def _open(place: Location, base: str | Path | None, canonical: Canonical, seen: tuple[Path, ...]) -> Checkpoint:
    config_path = place.folder / "adapter_config.json"
    if not config_path.is_file():
        if base is not None:
            raise ExportError(f"checkpoint: {place.label} is no adapter and needs no base. Leave --base out.")
        return _open_full(place, canonical)
    if place.folder in seen:
        raise ExportError(f"adapter {place.label}: it is its own base. Give the base with --base.")
    config = _read_json(config_path)
    under = _open(_locate_base(place, config, base), None, canonical, (*seen, place.folder))
    return Checkpoint(
        weights=under.weights.adapt(place.folder, config),
        config=under.config,
        description=f"{place.label} (adapter) on {under.description}",
        folders=(place.folder, *under.folders),
    )


def _open_full(place: Location, canonical: Canonical) -> Checkpoint:
    config_path = place.folder / "config.json"
    if not config_path.is_file():
        raise ExportError(
            f"checkpoint: {place.label} has neither config.json nor adapter_config.json. Give the directory that holds "
            "the published files."
        )
    config = _read_json(config_path)
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    if any(part.get("quantization_config") for part in parts):
        raise ExportError(
            f"checkpoint: {place.label} is quantised (quantization_config in config.json). Give the checkpoint it was "
            "made from, in fp32, bf16 or fp16; as the base of an adapter, with --base."
        )
    weights = Weights(WeightSource.find(place.folder), canonical)
    if quantised := [name for name in weights if weights.info(name).dtype in _QUANTISED]:
        raise ExportError(
            f"checkpoint: {place.label} is quantised: 8-bit weights {', '.join(quantised)}. Give the checkpoint it was "
            "made from, in fp32, bf16 or fp16."
        )
    return Checkpoint(weights, config, place.label, (place.folder,))


def _locate_base(adapter: Location, config: dict[str, Any], given: str | Path | None) -> Location:
    """Find an adapter's base: the given one, else the one it names: beside it, in the working directory, on the hub."""
    if given is not None:
        return locate(given)
    name = config.get("base_model_name_or_path")
    if not name:
        raise ExportError(f"adapter {adapter.label}: adapter_config.json names no base. Give it with --base.")
    if (adapter.folder / name).is_dir():
        return locate(adapter.folder / name)
    try:
        return locate(name, None if Path(name).is_dir() else config.get("revision"))
    except ExportError as error:
        raise ExportError(
            f"adapter {adapter.label}: its base {name!r} (base_model_name_or_path in adapter_config.json) is neither "
            f"beside it, nor in the working directory, nor on the hub. Give it with --base. [{error}]"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"checkpoint: {path} is not JSON ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise ExportError(f"checkpoint: {path} holds no JSON object. Download it again.")
    return content
