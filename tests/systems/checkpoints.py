"""The systems that are served side by side in these tests: recipe, and the maker of its random checkpoint."""

from __future__ import annotations

from periscope_testing.systems import SYSTEMS as TABLE

SYSTEMS = {name: (system.recipe, system.make) for name, system in TABLE.items() if system.group != "qwen2_vl"}
