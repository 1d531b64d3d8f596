"""Graphs to TensorRT engines. `tensorrt` (on the GPU that will serve) and `tensorrt-rtx` (anywhere) have one API.

Networks are strongly typed: the precision is in the graph. Attention layers are left whole, so a builder that has no
fused kernel for one refuses it instead of serving something slow.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from periscope_export.engines.engine import Options
from periscope_export.engines.tensorrt_refusal import attention_layers, refusal
from periscope_export.errors import ExportError
from periscope_export.repository.profiles import Profile

# The extra of this package that brings each builder.
_EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "tensorrt-rtx"}


class Plan(NamedTuple):
    """A built engine: its bytes, how many attention layers it has (all fused), what was measured and what was said.

    `timing_cache` is empty where the builder measures nothing, as TensorRT-RTX does.
    """

    engine: bytes
    attention_layers: int
    timing_cache: bytes
    log: tuple[str, ...]


def load_builder(name: str) -> Any:
    """Return the Python API of the builder of an engine. Raises `ExportError` when it is not installed."""
    try:
        return importlib.import_module(name.replace("-", "_"))
    except ImportError as error:
        raise ExportError(
            f"engine {name}: {error}. Install the extra that brings it, in a checkout of Periscope: "
            f"pip install '.[{_EXTRAS[name]}]'."
        ) from error


def build_engine(api: Any, graph: Path, profiles: Sequence[Profile], options: Options) -> Plan:
    """Build one engine from a graph, with one optimization profile for each of `profiles`, in their order.

    Raises `ExportError` with what the parser or the builder refused, and where in our code that comes from.
    """
    log = logger(api)
    log.clear()
    builder = api.Builder(log)
    network = builder.create_network(0)
    parser = api.OnnxParser(network, log)
    if not parser.parse_from_file(str(graph)):
        errors = [str(parser.get_error(number)) for number in range(parser.num_errors)]
        raise ExportError(f"engine: {called(graph)} cannot be parsed: {'; '.join(errors)}.")
    config = builder.create_builder_config()
    for wanted in profiles:
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in wanted.shapes.items():
            profile.set_shape(name, smallest, usual, largest)
        config.add_optimization_profile(profile)
    for flag, asked in (("STRIP_PLAN", options.strip_weights), ("VERSION_COMPATIBLE", options.version_compatible)):
        if asked:
            config.set_flag(getattr(api.BuilderFlag, flag))
    measures = _measures(api)
    if measures:
        config.set_timing_cache(config.create_timing_cache(options.timing_cache), False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        said = "; ".join(log.errors) or "no reason given"
        reason = refusal(api, builder, network, config, graph, said)
        raise ExportError(f"engine: {called(graph)} cannot be built: {reason}")
    timing_cache = bytes(config.get_timing_cache().serialize()) if measures else b""
    # Paths of this machine are nobody's business where the log goes.
    lines = tuple(line.replace(f"{graph.parent}/", "") for line in log.lines)
    return Plan(bytes(plan), len(attention_layers(api, network)), timing_cache, lines)


def called(graph: Path) -> str:
    """Return how messages call a graph: its model, version and file."""
    return f"{graph.parent.parent.name}/{graph.parent.name}/{graph.name}"


def _measures(api: Any) -> bool:
    """Whether the builder times kernels on a GPU; TensorRT-RTX chooses without, and warns of a timing cache."""
    return str(api.__name__) == "tensorrt"


@cache
def logger(api: Any) -> Any:
    """Return the logger of an API: TensorRT keeps the first that it is given for the whole process."""

    class Logger(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity != api.ILogger.VERBOSE:
                self.lines.append(f"{severity.name}: {message}")
            if severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())

        def clear(self) -> None:
            self.lines, self.errors = [], []

    return Logger()
