"""Errors of the export."""

from __future__ import annotations


class ExportError(Exception):
    """An export cannot go on. The text names the step, every item that is wrong, and the remedy."""

    def line(self, command: str) -> str:
        """The text as `periscope COMMAND` prints it, where a step that is called like the command is named once."""
        return f"periscope {command}: {str(self).removeprefix(f'{command}: ')}"


class WrongBaseError(ExportError):
    """An adapter's base is not found, or not the one that it was trained on."""
