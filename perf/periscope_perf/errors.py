"""Errors that end a measurement. Every message names the step, the item and what to do."""

from __future__ import annotations


class PerfError(Exception):
    """The measurement cannot be made."""


class MissingToolError(PerfError):
    """perf_analyzer is not installed, or cannot be."""


class ScenarioError(PerfError):
    """A scenario cannot be read, or does not fit what is served."""


class ReportError(PerfError):
    """A report of perf_analyzer or Triton in another form than this version of them writes."""


class RunError(PerfError):
    """perf_analyzer ended without a measurement."""
