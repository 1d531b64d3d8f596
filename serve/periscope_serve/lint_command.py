"""`periscope lint`: check model repositories without starting a server."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from periscope_serve.errors import ServeError
from periscope_serve.lint import lint, unchecked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `periscope lint`."""
    parser.add_argument("directories", metavar="DIR", nargs="+", type=Path, help="a Triton model repository")


def run(args: argparse.Namespace) -> int:
    """Print every finding; 0 when there is none."""
    try:
        findings = lint(args.directories)
    except ServeError as error:
        print(f"periscope lint: {error}", file=sys.stderr)
        return 1
    for finding in findings:
        print(f"periscope lint: {finding}", file=sys.stderr)
    for name in unchecked(args.directories):
        print(f"periscope lint: model '{name}': its graph is in bf16, so it was not looked into", file=sys.stderr)
    if not findings:
        print(f"sound: {', '.join(map(str, args.directories))}")
    return 1 if findings else 0
