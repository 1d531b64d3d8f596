"""Errors of a server that is not there. Every message names what is wrong, where, and what to do."""

from __future__ import annotations


class ServeError(Exception):
    """The repository is not served."""


class UnfitEnvironmentError(ServeError):
    """The machine or the Python environment cannot run the embedded Triton."""


class BadRepositoryError(ServeError):
    """The model repository would not load."""


class StartError(ServeError):
    """Triton did not become ready."""


class ServerDiedError(ServeError):
    """Triton was ready and is gone."""
