"""`optimum-cli export triton`: `periscope export` where users of Hugging Face Optimum look for it.

Optimum imports every file of the namespace `optimum.commands.register`, whichever distribution brought it, each time
that `optimum-cli` starts. The packages around this file are Optimum's too: none of them may have an `__init__.py` here.
"""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

from periscope_client.console import COMMANDS, MissingExtraError, load


class TritonExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # Optimum is not typed
    """The arguments and the work of `periscope export`."""

    COMMAND = CommandInfo(name="triton", help=COMMANDS["export"].help)

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Declare the arguments, if it is this command that was called: Optimum asks all commands for theirs."""
        if sys.argv[1:3] != ["export", "triton"]:
            return
        parser.description = COMMANDS["export"].help
        try:
            load("export").add_arguments(parser)
        except MissingExtraError as error:
            parser.exit(1, f"{parser.prog}: {error}\n")

    def run(self) -> NoReturn:
        """Export, and exit with the status: Optimum would not pass it on."""
        sys.exit(load("export").run(self.args))


REGISTER_COMMANDS = [(TritonExportCommand, ExportCommand)]
