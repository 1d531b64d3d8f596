"""The file that embeddings are kept in: ragged late vectors as one flat array and offsets, in a NumPy `.npz`."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from periscope_client._errors import VectorFileError
from periscope_client._items import shorten

REQUIRED = ("fingerprint", "recipe", "names")


def flatten(late: list[NDArray[np.float32]]) -> dict[str, NDArray[np.generic]]:
    """All tokens one under the other, and where each item begins and the last one ends."""
    offsets = np.cumsum([0, *map(len, late)], dtype=np.int64)
    flat = np.concatenate(late) if late else np.zeros((0, 0), np.float32)
    return {"late": flat, "late_offsets": offsets}


def unflatten(arrays: Mapping[str, NDArray[Any]]) -> list[NDArray[np.float32] | None] | None:
    """The inverse of `flatten`; None when the file has no late vectors. The items share the flat array's memory."""
    if "late" not in arrays:
        return None
    offsets = arrays["late_offsets"].tolist()
    return [arrays["late"][start:end] for start, end in itertools.pairwise(offsets)]


def unfinished(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The unfinished part of the run that wrote the file, as a sentence; empty where it finished or did not say.

    Arrays: `failed` [F], names of items that are not in the file, `reasons` [F], and `retry` [F]: whether to try again.
    """
    if "failed" not in arrays or not arrays["retry"].any():
        return ""
    first = int(np.flatnonzero(arrays["retry"])[0])
    name, reason = arrays["failed"][first], arrays["reasons"][first]
    more = int(arrays["retry"].sum()) - 1
    # Of what was read no further, the first stands for all.
    also = f" and {more} more at least" if more else ""
    return f"it lacks {shorten(str(name), 200)}{also} ({reason})"


def write(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write beside the target, then rename, so that nobody ever reads half a file. A link stays a link.

    Raises: OSError, also for what is there and no file: renamed over a device such as /dev/null, it would be gone.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            np.savez(file, **dict(arrays))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """All arrays of the file. Raises: VectorFileError, OSError."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = dict(archive)
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile):
        raise VectorFileError(
            f"{os.fspath(path)} is not a file of vectors, or not all of one. Give what `periscope embed` or "
            "Embeddings.save wrote (files to embed stand before --vectors)"
        ) from None
    missing = [name for name in REQUIRED if name not in arrays] + ["late_offsets"] * (
        "late" in arrays and "late_offsets" not in arrays
    )
    if missing:
        raise VectorFileError(f"{os.fspath(path)} was not written by Embeddings.save: it lacks {', '.join(missing)}")
    return arrays
