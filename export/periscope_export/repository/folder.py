"""The folder of a repository while it is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from periscope_export.errors import ExportError

# Bytes; with fewer left a disk is full.
_FULL = 1 << 20


@contextmanager
def complete_or_nothing(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output` that takes its name when the work is done, and vanishes when it is not.

    Raises `ExportError` for whatever the disk refuses within the block.
    """
    output = output.absolute()
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        partial.rename(output)
    except ExportError:
        raise
    except Exception as error:
        # Engines that write by themselves have errors of their own.
        if not isinstance(error, OSError) and shutil.disk_usage(partial).free >= _FULL:
            raise
        why = error.strerror if isinstance(error, OSError) else "No space left on device"
        written = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        raise ExportError(
            f"export: {output} cannot be written: {why}. {written / 1e6:.0f} MB of it were, and are removed again. "
            "Name an --output on a disk that has room for more and that you may write to."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
