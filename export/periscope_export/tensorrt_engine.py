"""Graphs to TensorRT engines. `tensorrt` (on the GPU that will serve) and `tensorrt-rtx` (anywhere) have one API.

Networks are strongly typed: the precision is in the graph. Attention layers are left whole, so a builder that has no
fused kernel for one refuses it instead of serving something slow.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from periscope_export.errors import ExportError
from periscope_export.profiles import Shapes

Builder = Literal["tensorrt", "tensorrt-rtx"]

_EXTRAS: dict[Builder, str] = {"tensorrt": "gpu", "tensorrt-rtx": "tensorrt-rtx"}


class Engine(NamedTuple):
    """A built engine: its bytes, how many attention layers it has (all fused), and what the builder said."""

    plan: bytes
    attention_layers: int
    log: tuple[str, ...]


def load_builder(builder: Builder) -> Any:
    """Return the Python API of a builder. Raises `ExportError` when it is not installed."""
    try:
        return importlib.import_module(builder.replace("-", "_"))
    except ImportError as error:
        raise ExportError(
            f"engine {builder}: {error}. Install the extra that brings it: pip install "
            f"'periscope-retrieval[{_EXTRAS[builder]}]'."
        ) from error


def build_engine(api: Any, graph: Path, profiles: Mapping[str, Mapping[str, Shapes]]) -> Engine:
    """Build one engine from a graph, with one optimization profile for each of `profiles`, in their order.

    Raises `ExportError` with what the parser or the builder refused.
    """
    logger = _logger(api)
    builder = api.Builder(logger)
    network = builder.create_network(0)
    parser = api.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        errors = [str(parser.get_error(number)) for number in range(parser.num_errors)]
        raise ExportError(f"engine: {_called(graph)} cannot be parsed: {'; '.join(errors)}.")
    config = builder.create_builder_config()
    for shapes in profiles.values():
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in shapes.items():
            profile.set_shape(name, smallest, usual, largest)
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"engine: {_called(graph)} cannot be built: {'; '.join(logger.errors) or 'no reason given'}.")
    layers = (network.get_layer(number) for number in range(network.num_layers))
    attention = sum(layer.type == api.LayerType.ATTENTION_OUTPUT for layer in layers)
    return Engine(bytes(plan), attention, tuple(logger.lines))


def _called(graph: Path) -> str:
    return f"{graph.parent.parent.name}/{graph.parent.name}/{graph.name}"


def _logger(api: Any) -> Any:
    class Logger(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(f"{severity.name}: {message}")
            if severity in (api.ILogger.ERROR, api.ILogger.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return Logger()
