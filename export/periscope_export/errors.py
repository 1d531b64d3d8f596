"""What stops an export."""

from __future__ import annotations


class ExportError(Exception):
    """An export cannot go on. The text names the step, every item that is wrong, and the remedy."""
