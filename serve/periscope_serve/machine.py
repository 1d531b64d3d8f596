"""Resources that Triton takes of the machine, looked at before it starts: open files, temporary folder, shared memory.

Where one is short, Triton gets ready all the same, waits for ever, or fails every page.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from periscope_runtime import cpus
from periscope_serve.check import SAFE_NAME
from periscope_serve.errors import StartError

MEBIBYTE = 1 << 20

_FILES_AT_REST = 70  # what tritonserver 2.51 has open without a model and a connection; one more for each model
_CONNECTIONS = 1000


def raise_open_files(models: int) -> Iterator[str]:
    """Raise the limit of open files to what the machine allows; yields a warning where that is few.

    Raises: StartError when so many models leave none for connections.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return
    left = hard - _FILES_AT_REST - models
    remedy = "Raise the hard limit (`ulimit -Hn`, `LimitNOFILE` of systemd, `docker run --ulimit nofile=65536`)"
    if left < 1:
        raise StartError(
            f"this process may open {hard} files, and Triton needs {hard - left} for {models} models. {remedy}"
        )
    if left < _CONNECTIONS:
        yield f"this process may open {hard} files, which leaves {left} for connections. {remedy}"


def check_cpus() -> None:
    """Raise `StartError` for a number of CPUs that makes no sense: every process of a model would end with it."""
    try:
        cpus.usable_cpus()
    except ValueError as error:
        raise StartError(str(error)) from None


def ignored_tmpdir() -> Iterator[str]:
    """Yield a warning where files do not go to the folder that TMPDIR names, because nothing can be written there."""
    wanted, taken = os.environ.get("TMPDIR"), tempfile.gettempdir()
    if wanted and Path(wanted).absolute() != Path(taken).absolute():
        yield f"nothing can be written to {wanted}, the folder that TMPDIR names: {taken} is used"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a temporary folder for Triton's programs, which is removed after the block.

    Raises: StartError when nothing can be written there, or no program started from there.
    """
    try:
        place = Path(tempfile.gettempdir())
        folder = Path(tempfile.mkdtemp(prefix="periscope-serve-"))
    except OSError as error:
        raise StartError(f"no temporary folder can be made: {error.strerror}. Set TMPDIR to one with room") from None
    try:
        if not all(SAFE_NAME.fullmatch(part) for part in place.parts[1:]):
            raise StartError(
                f"the temporary folder {place} has a name that a shell reads in its own way, and Triton starts its "
                "processes through one. Set TMPDIR to another folder"
            )
        if os.statvfs(folder).f_flag & os.ST_NOEXEC:
            raise StartError(
                f"the temporary folder {place} is mounted noexec, and Triton's processes are started from there. Set "
                "TMPDIR to another folder, or mount it with exec (`docker run --tmpfs /tmp:exec`)"
            )
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def writing(folder: Path, needed: int) -> Iterator[None]:
    """Turn what goes wrong within the block, which writes `needed` bytes to a temporary folder, into a `StartError`."""
    try:
        yield
    except OSError as error:
        why = f"cannot be written to: {error.strerror}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            why = f"has no room for Triton's programs ({error.strerror}), which take {-(-needed // MEBIBYTE)} MiB"
        raise StartError(
            f"the temporary folder {folder.parent} {why}. Make room there, or set TMPDIR to another folder"
        ) from None
