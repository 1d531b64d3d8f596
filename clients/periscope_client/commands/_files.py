"""The files that are named on the command line: refused, read from standard input, or found in folders."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from periscope_client._documents import is_pdf
from periscope_client._errors import InvalidInput
from periscope_client._source import URL

# The files that a folder is searched for. One that is named itself is read whatever it is called.
SUFFIXES = frozenset(
    {".pdf", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif"}
)

STDIN = Path("-")
"""The meaning of `-` as an argument, and of no other path: compared with `is`, because ./- is a file."""

_FILE_STARTS = (b"%PDF-", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_SHOWN = 5


def file_argument(text: str) -> Path:
    """A path on this machine, or `STDIN`. Raises: ArgumentTypeError for a URL."""
    if URL.match(text):
        raise argparse.ArgumentTypeError(f"{text!r} is a URL, and only files are read: download it, and name the file")
    return STDIN if text == "-" else Path(text)


def output_argument(text: str) -> Path:
    """A path on this machine to write to. Raises: ArgumentTypeError for a URL and for `-`."""
    if URL.match(text) or text == "-":
        raise argparse.ArgumentTypeError(f"give a path on this machine, not {text!r}")
    return Path(text)


def first_file(args: argparse.Namespace) -> list[Path]:
    """The first file, which stands in the place of QUERY where another option gives the query, if any.

    A URL there ends the program with status 2.
    """
    try:
        return [] if args.query is None else [file_argument(args.query)]
    except argparse.ArgumentTypeError as error:
        args.refuse(str(error))
        raise AssertionError from error  # pragma: no cover (`refuse` does not return)


def require_stdin_once(args: argparse.Namespace, given: Iterable[object]) -> None:
    """End the program with status 2 where more than one of these, paths and texts, is `-`."""
    if sum(one is STDIN or one == "-" for one in given) > 1:
        args.refuse("- is standard input, and can be given once")


def find_files(command: str, arguments: Sequence[Path]) -> list[Path]:
    """The files that the arguments name: `-` is a list of them on standard input, a folder stands for all in it.

    Files of other kinds in a folder are named on stderr. Raises: InvalidInput when nothing is left, OSError.
    """
    named: list[Path] = []
    for argument in arguments:
        named += _listed() if argument is STDIN else [argument]
    found: list[Path] = []
    for path in named:
        if not path.is_dir():
            found.append(path)
            continue
        skipped: list[Path] = []
        inside = list(_inside(path, skipped))
        if skipped:
            names = [str(one.relative_to(path)) for one in skipped[:_SHOWN]]
            more = [f"{len(skipped) - _SHOWN} more"] if len(skipped) > _SHOWN else []
            print(
                f"periscope {command}: {path}: {len(skipped)} skipped, neither images nor PDFs by their names: "
                f"{', '.join(names + more)}",
                file=sys.stderr,
            )
        if not inside:
            print(f"periscope {command}: {path}: there is no image and no PDF in this folder", file=sys.stderr)
        found += inside
    if arguments and not found:
        raise InvalidInput("there are no files to read")
    return found


def image_of(path: Path) -> Path | bytes:
    """The argument of `embed_image` and `rerank`: the path, or the bytes on standard input for `STDIN`."""
    return _read_stdin() if path is STDIN else path


def lines_of(source: Path) -> list[str]:
    """The lines of a text file, or of standard input for `STDIN`, without empty ones. Raises: InvalidInput."""
    name = "standard input" if source is STDIN else source
    try:
        data = _read_stdin() if source is STDIN else source.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read ({error.strerror})") from None
    try:
        lines = [line for line in data.decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{name} is not text in UTF-8 ({error.reason} at byte {error.start})") from None
    if not lines:
        raise InvalidInput(f"{name} has no line with a text")
    return lines


def secret_of(path: Path) -> str:
    """The one line of a file, such as a password. Raises: InvalidInput."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\r\n")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror}). Name a file that holds the secret") from None


def require_writable(path: Path) -> None:
    """Find out before the work whether a file can be written. Raises: InvalidInput."""
    target = Path(os.path.realpath(path))
    probe = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if path.exists() and not path.is_file():
            raise OSError(0, "it is a device or a pipe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written ({error.strerror}). Name a file in a folder that exists and can be written to"
        ) from None


def require_folder(path: Path) -> None:
    """Make a folder before the work, and find out whether files can be written there. Raises: InvalidInput."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be made ({error.strerror}). Name another folder") from None
    require_writable(path / "file")


def natural(path: Path) -> tuple[list[str | int], str]:
    """A key that sorts numbers in names by their size.

    >>> [path.name for path in sorted([Path("p10.png"), Path("P2.png"), Path("p1.png")], key=natural)]
    ['p1.png', 'P2.png', 'p10.png']
    """
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name


def _inside(folder: Path, skipped: list[Path]) -> Iterator[Path]:
    """Images and PDFs in a folder and the folders in it, without what is hidden; other files go to `skipped`.

    A link to a folder is not followed: it may lead back.
    """
    for path in sorted(folder.iterdir(), key=natural):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not path.is_symlink():
                yield from _inside(path, skipped)
        elif path.exists() and not path.is_file():
            # Opening a pipe waits for its writer.
            skipped.append(path)
        elif path.suffix.lower() in SUFFIXES or is_pdf(path):
            yield path
        else:
            skipped.append(path)


def _read_stdin() -> bytes:
    """The bytes on standard input. Raises: InvalidInput."""
    if sys.stdin is None:  # closed by the shell: <&-
        raise InvalidInput("standard input is closed: give what - stands for there, or name files")
    return sys.stdin.buffer.read()


def _listed() -> list[Path]:
    """The paths that standard input lists, one a line, or ended by zero bytes as `find -print0` does.

    Raises: InvalidInput.
    """
    data = _read_stdin()
    if data.startswith(_FILE_STARTS):
        raise InvalidInput("standard input lists paths, one a line, and this is a document itself: name its file")
    paths = []
    for line in data.split(b"\0" if b"\0" in data else b"\n"):
        name = os.fsdecode(line.removesuffix(b"\r"))
        if URL.match(name):
            raise InvalidInput(f"{name!r} on standard input is a URL, and only files are read: download it")
        if name:
            paths.append(Path(name))
    return paths
