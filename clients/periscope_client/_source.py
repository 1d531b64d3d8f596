"""The source of a document: a path, bytes, or an open file."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import BinaryIO, TypeAlias

from periscope_client._errors import InvalidInput
from periscope_client._limits import READ

DocumentSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO"


# Not a path of any file that was meant: what is read is on this machine.
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def unreadable(source: object, error: Exception) -> InvalidInput:
    """The error of a path that cannot be opened, or of a file that cannot be read."""
    reason = (isinstance(error, OSError) and error.strerror) or error
    if isinstance(source, str) and URL.match(source):
        reason = "it is a URL: download it, and give its bytes or the file"
    return InvalidInput(f"the file cannot be read ({reason})", READ)


class Source:
    """A document to be opened. `path` is None unless it is one; `name` is what messages call it."""

    def __init__(self, source: DocumentSource) -> None:
        """Raises: TypeError for what is none of these."""
        self.path = Path(source) if isinstance(source, str | os.PathLike) else None
        self._source = source
        if self.path is not None:
            self.name = str(self.path)
        elif isinstance(source, bytes):
            self.name = f"{len(source)} bytes"
        elif hasattr(source, "read"):
            name = getattr(source, "name", None)
            self.name = name if isinstance(name, str) else type(source).__name__
        else:
            raise TypeError(f"a document is a path, bytes or an open file, not {type(source).__name__}")

    def open(self) -> BinaryIO:
        """A file of our own, at its beginning; that of somebody else is read to its end into memory.

        Raises: InvalidInput when it cannot be read, or is empty.
        """
        try:
            file = self._open()
            if not file.read(1):
                file.close()
                raise InvalidInput("the file is empty (0 bytes)", READ)
            file.seek(0)
        # ValueError: a path with a zero byte, a file that is closed.
        except (OSError, ValueError) as error:
            raise unreadable(self._source, error) from None
        return file

    def _open(self) -> BinaryIO:
        if self.path is not None:
            file = self.path.open("rb")
            if file.seekable():
                return file
            with file:  # a pipe, which can be read only once
                return io.BytesIO(file.read())
        content = self._source if isinstance(self._source, bytes) else self._source.read()  # type: ignore[union-attr]
        if not isinstance(content, bytes):
            raise InvalidInput("the file is opened as text: open it with mode 'rb'", READ)
        return io.BytesIO(content)
