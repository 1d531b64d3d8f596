"""Tensors in a file instead of memory, for weights that may not fit into it.

The pages of a file are memory that the system writes out and drops when it needs room; anonymous memory, which
`torch.empty` gives, it must keep. The file has no name: it is gone with the last of its tensors, however that ends.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from periscope_export.errors import ExportError

# Bytes; tensors begin where a processor's widest loads like them to.
_ALIGNMENT = 64


def mapped_tensors(shapes: Sequence[Sequence[int]], dtype: torch.dtype, folder: Path | None = None) -> list[Tensor]:
    """Return zero tensors of these shapes, none empty, in one file on the disk of `folder`.

    Default: where temporary files go. Raises `ExportError` where the disk has no room for them.
    """
    counts = [math.prod(shape) for shape in shapes]
    ends = list(accumulate(-(-count * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT for count in counts))
    if not ends:
        return []
    memory = _map(ends[-1], Path(tempfile.gettempdir()) if folder is None else folder)
    # Each tensor holds the mapping, and the mapping the file.
    return [
        torch.frombuffer(memory, dtype=dtype, count=count, offset=start).view(tuple(shape))
        for shape, count, start in zip(shapes, counts, (0, *ends[:-1]), strict=True)
    ]


def _map(size: int, folder: Path) -> mmap.mmap:
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            # Room is taken now: a disk that fills up under a mapping kills the process without a word.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise ExportError(
                f"export: no room for {size / 1e9:.1f} GB of weights, which are kept on the disk of {folder} while a "
                f"graph is made ({error.strerror}). Free as much, or write to another disk."
            ) from error
        return mmap.mmap(file.fileno(), size)
