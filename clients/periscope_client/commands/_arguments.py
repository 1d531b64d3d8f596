"""Arguments of several commands: query and files, numbers, and what replaces the recipe's instruction and task."""

from __future__ import annotations

import argparse

from periscope_client.commands._files import file_argument

TASK = "a task of the recipe: its instruction, its adapter, or both (default: the recipe's)"


def add_query_and_files(parser: argparse.ArgumentParser, query: str, without: str) -> None:
    """QUERY and FILE..., either of which another option may stand for: `query` says what it is, `without` which."""
    arguments = [
        parser.add_argument("query", metavar="QUERY", help=query),
        parser.add_argument(
            "files",
            nargs="+",
            type=file_argument,
            default=[],
            metavar="FILE",
            help="images, PDF files, folders of them, or - for paths on stdin, one a line; none are needed with "
            + without,
        ),
    ]
    # Not `nargs="?"` and "*": those would match nothing as soon as an option comes, and refuse the files after it.
    for argument in arguments:
        argument.required = False


def add_instruction_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that replace the instruction in the recipe's prompt, and its task."""
    parser.add_argument("--instruction", metavar="TEXT", help="what the prompt asks for (default: that of the task)")
    parser.add_argument("--task", metavar="NAME", help=TASK)


def count(text: str) -> int:
    """A number of things, as an argument. Raises: ArgumentTypeError below 1, ValueError."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"give a number, at least 1, not {text!r}")
    return value


def not_negative(text: str) -> float:
    """A number of seconds, or 0, as an argument. Raises: ArgumentTypeError, ValueError."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"give a number of seconds, or 0, not {text!r}")
    return value


def positive(text: str) -> float:
    """A number above 0, as an argument. Raises: ArgumentTypeError, ValueError."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"give a positive number, not {text!r}")
    return value
