"""Reading stored weights lazily: safetensors or `.bin`, in one file or in shards.

Files are mapped into memory, not read: what a tensor costs is paid when it is asked for, and only in pages of the file
that the system can drop again.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open

from periscope_export.errors import ExportError

# The names of dtypes in the header of a safetensors file. The rest (F8_*, F4, ...) are quantised forms.
_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


class TensorInfo(NamedTuple):
    """Shape and dtype of a stored tensor, known without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class _WeightFile(Protocol):
    def keys(self) -> list[str]: ...

    def info(self, name: str) -> TensorInfo: ...

    def read(self, name: str) -> torch.Tensor: ...


class WeightSource:
    """A read-only mapping from the stored weight name to its tensor, over one file or many.

    Tensors are views of the mapped file: they must not be changed in place. Make one with `find`.
    """

    def __init__(self, files: Mapping[str, _WeightFile]) -> None:
        self._files = files

    @classmethod
    def find(cls, folder: Path, stems: tuple[str, str] = ("model", "pytorch_model")) -> WeightSource:
        """Open the weights of a checkpoint folder: `<stems[0]>.safetensors`, else `<stems[1]>.bin`, whole or sharded.

        Raises `ExportError` when there are none, with every shard or tensor that the index promises and the folder
        lacks, and for a file that cannot be read.
        """
        safetensors, torch_bin = stems
        kinds: list[tuple[str, Callable[[Path], _WeightFile]]] = [
            (f"{safetensors}.safetensors", _SafetensorsFile),
            (f"{torch_bin}.bin", _TorchFile),
        ]
        for name, open_file in kinds:
            if (folder / name).is_file():
                file = open_file(folder / name)
                return cls(dict.fromkeys(file.keys(), file))
            if (folder / f"{name}.index.json").is_file():
                return cls(_open_shards(folder, f"{name}.index.json", open_file))
        names = ", ".join(f"{name} or {name}.index.json" for name, _ in kinds)
        raise ExportError(f"checkpoint: {folder} holds no weights. It needs one of {names}.")

    def keys(self) -> list[str]:
        """Stored names, sorted."""
        return sorted(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype as stored. Raises `KeyError` for an unknown name."""
        return self._files[name].info(name)

    def read(self, name: str) -> torch.Tensor:
        """The tensor, in its stored dtype, as a view of the file. Raises `KeyError` for an unknown name."""
        return self._files[name].read(name)


class _SafetensorsFile:
    def __init__(self, path: Path) -> None:
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
        self._path = path

    def keys(self) -> list[str]:
        return list(self._file.keys())

    def info(self, name: str) -> TensorInfo:
        stored = self._file.get_slice(name)
        dtype = _SAFETENSORS_DTYPES.get(stored.get_dtype())
        if dtype is None:
            raise ExportError(
                f"checkpoint: {name} in {self._path.name} is stored as {stored.get_dtype()}, a quantised form. "
                "Give the checkpoint in fp32, bf16 or fp16."
            )
        return TensorInfo(tuple(stored.get_shape()), dtype)

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._file.get_tensor(name)
        return tensor


class _TorchFile:
    def __init__(self, path: Path) -> None:
        try:
            # weights_only refuses code in the pickle; mmap keeps the tensors in the file.
            content: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, OSError, EOFError, ValueError) as error:
            raise _unreadable(path, error) from error
        others = (
            [str(key) for key, value in content.items() if not isinstance(value, torch.Tensor)]
            if isinstance(content, dict)
            else [type(content).__name__]
        )
        if others:
            raise ExportError(
                f"checkpoint: {path.name} holds more than named tensors: {', '.join(others)}. "
                "Save the state dict alone, as safetensors."
            )
        self._tensors: dict[str, torch.Tensor] = content

    def keys(self) -> list[str]:
        return list(self._tensors)

    def info(self, name: str) -> TensorInfo:
        tensor = self._tensors[name]
        return TensorInfo(tuple(tensor.shape), tensor.dtype)

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name].detach()


def _open_shards(folder: Path, index_name: str, open_file: Callable[[Path], _WeightFile]) -> dict[str, _WeightFile]:
    """Open every shard that the index names, and hold the index against what the shards really contain."""
    try:
        weight_map = json.loads((folder / index_name).read_text(encoding="utf-8"))["weight_map"]
        shards = {shard: {key for key, of in weight_map.items() if of == shard} for shard in set(weight_map.values())}
        # A name with a folder in it could point outside the checkpoint.
        missing = sorted(s for s in shards if Path(s).name != s or not (folder / s).is_file())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"checkpoint: {index_name} is not a weight index ({error!r}). Download it again.") from error
    if missing:
        raise ExportError(
            f"checkpoint: {index_name} names files that {folder} lacks: {', '.join(missing)}. Download them again."
        )
    files: dict[str, _WeightFile] = {}
    wrong: list[str] = []
    for shard, promised in sorted(shards.items()):
        file = open_file(folder / shard)
        stored = set(file.keys())
        wrong += [f"{key} is not in {shard}" for key in sorted(promised - stored)]
        wrong += [f"{key} in {shard} is not in the index" for key in sorted(stored - promised)]
        files.update(dict.fromkeys(promised & stored, file))
    if wrong:
        raise ExportError(
            f"checkpoint: {index_name} and its files disagree: {'; '.join(wrong)}. Download the checkpoint again."
        )
    return files


def _unreadable(path: Path, error: Exception) -> ExportError:
    return ExportError(
        f"checkpoint: {path} cannot be read: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}. "
        "The file may be cut short (download it again) or of an old kind (save it again as safetensors)."
    )
