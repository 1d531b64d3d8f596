"""The `periscope` command: one table of subcommands, each imported only when it is called.

The light client carries this file, so nothing here may import what the bare install lacks.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import importlib
import importlib.metadata
import io
import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

DISTRIBUTION = "periscope-retrieval"

# The status that shells report of a process that ended by SIGINT, and by SIGPIPE.
INTERRUPTED = 130
UNREAD = 141


# The errors of a disk without room for more.
FULL = {errno.ENOSPC, errno.EDQUOT}


class Command(NamedTuple):
    """A subcommand.

    module: with `add_arguments(parser)` and `run(args) -> int`.
    extra: that it needs.
    help: one line.
    """

    module: str
    extra: str | None
    help: str


COMMANDS: dict[str, Command] = {
    "recipes": Command(
        "periscope_export.commands.recipes",
        "export",
        "list the published systems that can be exported, or print the recipe of one",
    ),
    "export": Command("periscope_export.commands.export", "export", "turn a checkpoint into a Triton model repository"),
    "verify": Command("periscope_export.commands.verify", "export", "measure a repository's fidelity again"),
    "serve": Command("periscope_serve.command", "serve", "start the embedded Triton on a model repository"),
    "lint": Command("periscope_serve.lint_command", "serve", "check a model repository without a server"),
    "bench": Command("periscope_perf.command", "perf", "measure a model repository with NVIDIA's perf_analyzer"),
    "embed": Command("periscope_client.commands.embed", None, "embed texts, images and PDF pages"),
    "search": Command("periscope_client.commands.search", None, "rank images and PDF pages for a query"),
    "rerank": Command("periscope_client.commands.rerank", None, "read a query with each image, page or text, and rank"),
}


class MissingExtraError(Exception):
    """A subcommand needs a package that is not installed; the message says which extra brings it."""


def load(name: str) -> ModuleType:
    """Import the module of a subcommand. Raises `MissingExtraError` where its package or extra is not installed."""
    command = COMMANDS[name]
    package = command.module.partition(".")[0]
    remedy = f"in a checkout of Periscope: pip install '.[{command.extra}]'"
    try:
        return importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        if error.name == package:
            raise MissingExtraError(
                f"this installation leaves out the package {package!r}, as the images do. Install all of it, {remedy}"
            ) from error
        if command.extra is None or (error.name or "").startswith("periscope_"):
            raise
        raise MissingExtraError(
            f"the package {error.name!r} is not installed. Install the extra that brings it, {remedy}"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit status.

    0 done, 1 failed with a message, 2 wrong usage, 130 after Ctrl-C, 141 when nobody reads the output any more.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    known = bool(arguments) and arguments[0] in COMMANDS
    return guarded(f"periscope {arguments[0]}" if known else "periscope", lambda: _run(arguments))


def guarded(name: str, work: Callable[[], int | None]) -> int:
    """The exit status of a program's work, without a traceback of what a user may do at any time.

    `name` stands before "interrupted" after Ctrl-C. Names of files that are not UTF-8 can be printed in it.
    A disk that is full, that of stdout among them, is said.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ANYHOW)
    try:
        try:
            return work() or 0
        finally:
            # Here, where a closed pipe is caught, and not at the interpreter's end.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return UNREAD
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"{name}: {error}. Make room on the disk that it writes to, and run it again", file=sys.stderr)
        _discard_output()
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="periscope", description="Published multimodal retrievers, served by Triton.")
    parser.add_argument("--version", action="version", version=f"periscope {_version()}", help="show it and exit")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.help, add_help=False)
        if name not in arguments[:1]:
            continue
        subparser.add_argument("-h", "--help", action="help", help="show this help and exit")
        try:
            module = load(name)
        except MissingExtraError as error:
            if {"-h", "--help"} & set(arguments):
                subparser.epilog = f"Its other options are not known here: {error}"
                break
            print(f"periscope {name}: {error}", file=sys.stderr)
            return 1
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    return int(args.run(args))


def _version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "of a checkout that is not installed"


def _encode_anyhow(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a file's name that are not UTF-8 as they are, what the terminal's encoding lacks as an escape."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


_ANYHOW = "periscope-anyhow"
codecs.register_error(_ANYHOW, _encode_anyhow)


def _discard_output() -> None:
    """Point stdout and stderr where what is still buffered for the reader who left can be written."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
