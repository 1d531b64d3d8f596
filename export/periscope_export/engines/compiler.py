"""Graphs of a repository to what its engine needs beside them: plans, their profiles, builder logs, timing caches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from periscope_export.engines.table import ENGINES
from periscope_export.engines.tensorrt_engine import Options, build_engine, load_builder
from periscope_export.graphs.graph import GRAPH_FILE
from periscope_export.repository.profiles import Profile

PLAN_FILE = "model.plan"
ENGINE_FILE = "engine.json"
LOG_FILE = "build.log"
TIMING_CACHE_FILE = "timing.cache"


def prepare(
    repository: Path,
    versions: Mapping[str, Path],
    profiles: Mapping[str, Sequence[Profile]],
    engine: str,
    options: Options,
    say: Callable[[str], None],
) -> None:
    """Write what an engine needs beside the graphs of `versions`, version folders by step; graphs stay where they are.

    `engine.json` with the profiles; and where graphs are compiled here `model.plan`, the builder's log, and for the
    whole repository what the builder measured. Raises `ExportError` for a missing builder and for what it refuses.
    """
    for step, version in versions.items():
        if not profiles[step]:
            continue
        built: dict[str, Any] = {}
        if ENGINES[engine].builder is not None:
            say(f"{step}: compiling with {engine}")
            api = load_builder(engine)
            plan = build_engine(api, version / GRAPH_FILE, profiles[step], options)
            (version / PLAN_FILE).write_bytes(plan.engine)
            (version / LOG_FILE).write_text("\n".join(plan.log) + "\n", encoding="utf-8")
            built = {
                "version": api.__version__,
                "strip_weights": options.strip_weights,
                "version_compatible": options.version_compatible,
                "attention_layers": plan.attention_layers,
            }
            options = options._replace(timing_cache=plan.timing_cache)
        report = {"engine": engine, **built, "profiles": [profile.as_json() for profile in profiles[step]]}
        (version / ENGINE_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.timing_cache:
        (repository / TIMING_CACHE_FILE).write_bytes(options.timing_cache)


def remove_graphs(versions: Mapping[str, Path], options: Options) -> None:
    """Remove the graphs that plans were made of, unless plans without weights are to be refitted from them."""
    for version in versions.values():
        if (version / PLAN_FILE).exists() and not options.strip_weights:
            for path in version.glob(f"{GRAPH_FILE}*"):
                path.unlink()
