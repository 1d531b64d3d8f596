"""The table of systems: everything that runs over all of them reads it.

A system is a folder or a file of this package, and its rows are that module's `SYSTEMS`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping

import periscope_testing
from periscope_testing.system import System


def _rows() -> Iterator[System]:
    for module in pkgutil.iter_modules(periscope_testing.__path__):
        if module.name != "systems":
            yield from getattr(importlib.import_module(f"{periscope_testing.__name__}.{module.name}"), "SYSTEMS", ())


SYSTEMS: Mapping[str, System] = {system.name: system for system in _rows()}
