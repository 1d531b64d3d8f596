"""`periscope export CHECKPOINT --recipe NAME | FILE.yaml --output DIR`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import NoReturn

from periscope_export.engines import ENGINES
from periscope_export.errors import ExportError
from periscope_export.recipes.loading import is_file, recipe_names, unknown
from periscope_export.recipes.overrides import parse_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", help="a directory, or a hub id such as vidore/colqwen2-v1.0")
    parser.add_argument(
        "--recipe",
        type=_recipe,
        metavar="NAME | FILE.yaml",
        help=f"the published system it descends from, one of {', '.join(recipe_names())}, or a file of your own; may "
        "be left out for a hub id that `periscope recipes` lists",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the repository to write")
    parser.add_argument("--name", metavar="R", help="name of the served retriever (default: the recipe's)")
    parser.add_argument("--base", metavar="DIR", help="base of an adapter, where its own config does not find it")
    parser.add_argument("--revision", help="revision of a hub id")
    parser.add_argument(
        "--engine",
        choices=list(ENGINES),
        default="onnxruntime",
        help="that runs the graphs; openvino for bf16 and int8 on CPUs, onnxruntime-cuda for onnxruntime on GPUs, "
        "tensorrt compiles for the GPU of this machine",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "fp16", "bf16", "int8", "fp8"],
        help="of weights and computation; vectors are float32 (default: fp32 in onnxruntime, bf16 in openvino, else "
        "fp16, or bf16 where the checkpoint's activations would overflow fp16); int8 and fp8 quantise matrix products",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a recipe field (docs/recipes.md), over what recipe and checkpoint say, in YAML; may be repeated: "
        "preparation.limits.image_pixels=134217728",
    )
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="of a system with an adapter for each task, merge that of this one, for a graph like any other; all are "
        "in one graph otherwise, and each request chooses (the same as --set adapters.task=NAME)",
    )
    parser.add_argument("--strip-weights", action="store_true", help="plans without weights, to refit on the server")
    parser.add_argument("--version-compatible", action="store_true", help="plans that later TensorRT versions load too")
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="what an earlier build on this GPU measured")


def run(args: argparse.Namespace) -> int:
    """Export, with progress on stderr."""
    from periscope_export.engines.engine import Options
    from periscope_export.exporter import Request, export
    from periscope_export.recipes.which import recipe_of

    # A scheduler's SIGTERM cleans up like Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    values = {name: value for name, value in vars(args).items() if name in Request.__dataclass_fields__}
    try:
        values["recipe"] = args.recipe or recipe_of(args.checkpoint)
        timing_cache = b"" if args.timing_cache is None else _read_timing_cache(args.timing_cache)
        options = Options(args.strip_weights, args.version_compatible, timing_cache)
        export(Request(**values, options=options, settings=parse_settings(args.set, args.task)))
    except ExportError as error:
        print(error.line("export"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("periscope export: interrupted, nothing was written.", file=sys.stderr)
        return 130
    return 0


def _recipe(name: str) -> str:
    if name not in recipe_names() and not is_file(name):
        raise argparse.ArgumentTypeError(unknown(name))
    return name


def _read_timing_cache(path: Path) -> bytes:
    """Read a file that an earlier export wrote beside its engines. Raises `ExportError` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExportError(f"export: {path} cannot be read: {error.strerror}. Leave --timing-cache out.") from error


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
