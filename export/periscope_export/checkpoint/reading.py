"""Opening a checkpoint: full weights, or an adapter on its base, under one set of names.

    checkpoint = open_checkpoint("vidore/colqwen2-v1.0", canonical=canonical_name)
    for name in checkpoint.weights.keys():
        tensor = checkpoint.weights.read(name)     # merged, where an adapter changes it

Nothing is read until it is asked for, so that loading costs the tensors that the caller keeps and one merge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from periscope_export.checkpoint.adapter import Adapter
from periscope_export.checkpoint.adapter_stack import AdapterStack
from periscope_export.checkpoint.hub import Location, locate
from periscope_export.checkpoint.names import as_stored, unwrapped
from periscope_export.checkpoint.source import TensorInfo, WeightSource
from periscope_export.errors import ExportError, WrongBaseError

__all__ = ["Checkpoint", "TensorInfo", "WeightSource", "Weights", "open_checkpoint"]

Canonical = Callable[[str], str]
# Says, of a `config.json`, which two weights are one where only one of them is stored: the language head and the table
# of embeddings, by their canonical names. None where there are no such.
Tied = Callable[[Mapping[str, Any]], tuple[str, str] | None]

# A processor is saved as a whole: an older file of another folder says nothing about it.
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")

_QUANTISED = {torch.int8, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2}
# Parts of a name that the modules of a live adapter have.
_UNMERGED = re.compile(r"\.(lora_[A-Za-z_]+|base_layer|modules_to_save|original_module)(\.|$)")


class WantedAdapters(NamedTuple):
    """The adapters to use of those that one file holds, by their names there: one is merged, several are stacked.

    `folder` is where the file lies beside full weights, None where it is always a directory of its own.
    """

    names: tuple[str, ...]
    folder: str | None


class _Made(NamedTuple):
    """A weight that is stored elsewhere or made of others, and what users know it by."""

    info: TensorInfo
    read: Callable[[], torch.Tensor]
    known_as: str


class Weights:
    """A read-only mapping from canonical weight name to tensor, with adapters applied when a tensor is read.

    Tensors that no adapter changes are views of the file: they must not be changed in place.
    """

    def __init__(self, source: WeightSource, canonical: Canonical, tied: tuple[str, str] | None = None) -> None:
        """Name what `source` holds; of two `tied` weights, one of them stored, each has what is stored.

        They are two weights for adapters, which may change either alone. Raises `ExportError` with every pair of
        stored names that mean the same weight.
        """
        self._source, self._canonical = source, canonical
        self._adapters: tuple[Adapter | AdapterStack, ...] = ()
        self._made: dict[str, _Made] = {}
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
        present = [name for name in tied or () if name in self._stored]
        self._tied = tied if len(present) == 1 else None
        for name in self._tied or ():
            self._stored.setdefault(name, self._stored[present[0]])

    def adapt(self, folder: Path, config: dict[str, Any], names: Sequence[str] = ()) -> Weights:
        """Return these weights under the adapter in `folder`, or under those of some `names` where it has several.

        One is merged, several lie beside the weights that they change. Raises `ExportError` as `Adapter` and
        `AdapterStack` do.
        """
        base = {name: self.info(name) for name in self}
        adapted, given = copy(self), (folder, config, base, self._canonical, self._tied)
        one = AdapterStack(*given, names) if len(names) > 1 else Adapter(*given, *names)
        adapted._adapters = (*self._adapters, one)
        return adapted

    def having(self, name: str, info: TensorInfo, read: Callable[[], torch.Tensor], known_as: str) -> Weights:
        """Return these weights and one that is stored elsewhere, or made of others when it is read.

        `known_as` is what messages call it.
        """
        having = copy(self)
        having._made = {**self._made, name: _Made(info, read, known_as)}
        return having

    def keys(self) -> Iterator[str]:
        """Canonical names, sorted."""
        return iter(sorted(self._stored.keys() | self.adapted() | self._made.keys()))

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def stored_name(self, name: str) -> str:
        """Return the files' name of a weight, also of one that they lack, as far as their other names tell."""
        if name in self._made:
            return self._made[name].known_as
        if name in self._stored:
            return self._stored[name]
        keys = (adapter.key(name) for adapter in self._adapters if name in adapter)
        return next(keys, None) or as_stored(name, self._stored, self._canonical)

    def adapted(self) -> set[str]:
        """Canonical names of the weights that an adapter changes or adds."""
        return set().union(*(adapter.keys() for adapter in self._adapters))

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of what `read` returns. Raises `KeyError` for an unknown name."""
        if name in self._made:
            return self._made[name].info
        for adapter in reversed(self._adapters):
            if name in adapter:
                return adapter.info(name)
        return self._source.info(self._stored[name])

    def read(self, name: str) -> torch.Tensor:
        """The tensor: fp32 where an adapter is merged into it, else as stored. Raises `KeyError` for unknown names."""
        if name in self._made:
            return self._made[name].read()
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

    def json_list(self, name: str) -> list[dict[str, Any]] | None:
        """Content of a JSON file that is a list of objects, or None. Raises `ExportError` if it holds none."""
        path = self.file(name)
        if path is None:
            return None
        content = _parsed(path)
        if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
            raise ExportError(f"checkpoint: {name} holds no list of JSON objects. Download it again.")
        return content


def open_checkpoint(
    location: str | Path,
    base: str | Path | None = None,
    *,
    canonical: Canonical,
    tied: Tied = lambda config: None,
    revision: str | None = None,
    wanted: WantedAdapters | None = None,
) -> Checkpoint:
    """Open a checkpoint: a directory or a hub id, holding full weights or a PEFT adapter.

    Args:
        location: a directory, `org/name` or `org/name@revision`.
        base: what an adapter was trained on, where `base_model_name_or_path` in its adapter_config.json does not find
            it. It may be an adapter itself.
        canonical: maps a weight name of any layout to the one name used here. What training wraps around modules is
            gone from it.
        tied: says which two weights are one where only one is stored.
        revision: of a hub id.
        wanted: which adapters to use, of a system that is published with one for each task.

    Raises:
        ExportError: nothing is found there; a file cannot be read or is missing; the weights are quantised; an adapter
            cannot be merged, or is not there for the task; a base is given for full weights.
        WrongBaseError: the base of an adapter is missing, or the adapter does not fit it.
    """
    place = locate(location, revision, () if wanted is None or wanted.folder is None else (wanted.folder,))
    return _Opening(lambda name: canonical(unwrapped(name)), tied).open(place, base, wanted)


@dataclass(frozen=True)
class _Opening:
    """Settings that a checkpoint shares with everything that it is based on."""

    canonical: Canonical
    tied: Tied

    def open(
        self,
        place: Location,
        base: str | Path | None = None,
        wanted: WantedAdapters | None = None,
        seen: tuple[Path, ...] = (),
    ) -> Checkpoint:
        config_path = place.folder / "adapter_config.json"
        if not config_path.is_file():
            if base is not None:
                raise ExportError(f"checkpoint: {place.label} is no adapter and needs no base. Leave --base out.")
            full = self._full(place)
            if wanted is None:
                return full
            return self._adapted(full, place, place.folder / (wanted.folder or "."), wanted)
        if place.folder in seen:
            raise ExportError(f"adapter {place.label}: it is its own base. Give the base with --base.")
        under = self.open(_locate_base(place, _read_json(config_path), base), seen=(*seen, place.folder))
        return self._adapted(under, place, place.folder, wanted)

    def _adapted(self, under: Checkpoint, place: Location, folder: Path, wanted: WantedAdapters | None) -> Checkpoint:
        """Return what is under an adapter, with it."""
        config_path = folder / "adapter_config.json"
        if not config_path.is_file():
            raise ExportError(
                f"checkpoint: {place.label} has no {config_path.relative_to(place.folder).as_posix()}, and without the "
                "adapters of its tasks its vectors mean something else. Add the folder, which was published with it; "
                "where the adapter of a task is merged already, say so with --task and --set adapters.merged=true."
            )
        names = () if wanted is None else wanted.names
        adapter = f"adapter{'s' if len(names) > 1 else ''}{' of ' if names else ''}{', '.join(names)}"
        # Of full weights that have their adapters beside them, one name is enough.
        on = "" if under.description == place.label else f" on {under.description}"
        try:
            weights = under.weights.adapt(folder, _read_json(config_path), names)
        except WrongBaseError as error:
            raise WrongBaseError(f"{error} The base here is {under.description}.") from None
        return Checkpoint(
            weights=weights,
            config=under.config,
            description=f"{place.label} ({adapter}){on}",
            folders=(folder, *under.folders),
        )

    def _full(self, place: Location) -> Checkpoint:
        config_path = place.folder / "config.json"
        if not config_path.is_file():
            raise ExportError(
                f"checkpoint: {place.label} has neither config.json nor adapter_config.json. Give the directory that "
                "holds the published files; where modules.json names another folder for them, move its files up."
            )
        config = _read_json(config_path)
        parts = [config, *(part for part in config.values() if isinstance(part, dict))]
        if any(part.get("quantization_config") for part in parts):
            raise ExportError(
                f"checkpoint: {place.label} is quantised (quantization_config in config.json). Give the checkpoint it "
                "was made from, in fp32, bf16 or fp16; as the base of an adapter, with --base."
            )
        source = WeightSource.find(place.folder)
        if unmerged := [name for name in source if _UNMERGED.search(name)]:
            raise ExportError(
                f"checkpoint: {place.label} holds an adapter that is not merged: {_some(unmerged)}. Merge it "
                "(merge_and_unload), or save it as PEFT does (save_pretrained) and give that directory."
            )
        if quantised := [name for name in source if source.info(name).dtype in _QUANTISED]:
            raise ExportError(
                f"checkpoint: {place.label} is quantised: 8-bit weights {', '.join(quantised)}. Give the checkpoint it "
                "was made from, in fp32, bf16 or fp16."
            )
        return Checkpoint(Weights(source, self.canonical, self.tied(config)), config, place.label, (place.folder,))


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _locate_base(adapter: Location, config: dict[str, Any], given: str | Path | None) -> Location:
    """Find an adapter's base: the given one, else the one it names: beside it, in the working directory, on the hub."""
    if given is not None:
        try:
            return locate(given)
        except ExportError as error:
            raise WrongBaseError(str(error)) from error
    name = config.get("base_model_name_or_path")
    if not name or not isinstance(name, str):
        raise WrongBaseError(f"adapter {adapter.label}: adapter_config.json names no base. Give it with --base.")
    if (adapter.folder / name).is_dir():
        return locate(adapter.folder / name)
    try:
        return locate(name, None if Path(name).is_dir() else config.get("revision"))
    except ExportError as error:
        raise WrongBaseError(
            f"adapter {adapter.label}: its base {name!r} (base_model_name_or_path in adapter_config.json) is neither "
            f"beside it, nor in the working directory, nor on the hub. Give it with --base. [{error}]"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    content = _parsed(path)
    if not isinstance(content, dict):
        raise ExportError(f"checkpoint: {path} holds no JSON object. Download it again.")
    return content


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"checkpoint: {path} is not JSON ({error}). Download it again.") from error
