"""The gain of a query by the prefixes that OpenVINO's exports keep: tokens that are left out, and milliseconds.

    python -m periscope_perf.kept_prefixes DIR/tokenizer.json
    python -m periscope_perf.kept_prefixes DIR/tokenizer.json --latency

prints a row of a Markdown table for each recipe that may keep any. Tokens are those of one query in the default task,
cut by the tokenizer of a published Qwen-VL; those that tests make cut otherwise. With `--latency` a random checkpoint
of the published widths, four layers deep, is exported twice to bf16, with kept prefixes and without, both are served by
one server, and the same query is sent to them in turns: the median of the rounds, and that of the ratios within a
round. Needs 10 GB on the disk of `--scratch`; everything that was made is removed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from tokenizers import Tokenizer

from periscope_client import Retriever
from periscope_client.console import guarded
from periscope_export.engines import ENGINES
from periscope_export.exporter import Request, Say, export, progress
from periscope_export.models.kept_prefixes import keeps_prefixes
from periscope_export.recipes.loading import load_recipe, recipe_names
from periscope_export.recipes.schema import Recipe
from periscope_export.repository.writing import write_preparation
from periscope_perf.checkpoints import QWEN2_VL, QWEN3_VL
from periscope_perf.interleaved import Rounds, Side, interleave
from periscope_runtime.asked import Asked
from periscope_runtime.collate import collate
from periscope_runtime.item import Item
from periscope_runtime.prepare import Preparer
from periscope_runtime.prompt import PromptEncoder
from periscope_serve.server import Server
from periscope_testing.qwen2_5_vl import make_qwen2_5_vl
from periscope_testing.qwen2_vl import make_qwen2_vl
from periscope_testing.qwen3_vl.checkpoint import make_qwen3_vl_embedding

# Ten words.
QUERY = "which region used the most energy per household in 2023"
# A figure is the middle one of so many queries.
QUERIES = 20

# By backbone, what writes a checkpoint of published widths. The last language model is that of Qwen2.5-VL-3B.
MAKERS: Mapping[str, Callable[..., Path]] = {
    "qwen2_vl": partial(make_qwen2_vl, sizes=QWEN2_VL["wide"]),
    "qwen3_vl": partial(make_qwen3_vl_embedding, sizes=QWEN3_VL["wide"]),
    "qwen2_5_vl": partial(make_qwen2_5_vl, sizes=replace(QWEN2_VL["wide"], heads=16, kv_heads=2, mlp=11008)),
}


class Count(NamedTuple):
    """Tokens of a query, and how many of them are kept."""

    tokens: int
    kept: int


def keeping_recipes() -> list[str]:
    """Return the names of recipes whose exports may keep the tokens that queries begin with."""
    recipes = {name: load_recipe(name) for name in recipe_names()}
    return [
        name for name, recipe in recipes.items() if keeps_prefixes(recipe) and "query" in recipe.preparation.prompts
    ]


def count(recipe: Recipe, tokenizer: Path, folder: Path, query: str = QUERY) -> Count:
    """Return how many tokens a query has, prepared as an export prepares it; it is written into `folder`."""
    prefixes = PromptEncoder(recipe.preparation, tokenizer).prefixes()
    preparer = Preparer(write_preparation(folder, "r", recipe, tokenizer, prefixes)["text"])
    row = preparer.item(Item(text=query.encode()), Asked(role="query"))
    tensors = collate([row], recipe.preparation.buckets, preparer.kept)
    return Count(len(row.input_ids_T), tensors["prefix_index"].shape[1] if "prefix_index" in tensors else 0)


def latency(name: str, make: Callable[[Path], Path], folder: Path, rounds: int, say: Say, query: str = QUERY) -> Rounds:
    """Return milliseconds of a query to a recipe's retriever: "whole" prompts, and those with "kept" prefixes."""
    checkpoint, repositories = make(folder / "checkpoint"), []
    for side in ("whole", "kept"):
        with patch.object(ENGINES["openvino"], "keeps_prefixes", side == "kept"):
            request = Request(str(checkpoint), name, folder / side, name=side, precision="bf16", engine="openvino")
            repositories.append(export(request, say))
    with (
        Server(repositories, grpc_port=0, http_port=0, metrics_port=0, log=folder / "log") as server,
        Retriever(server.grpc_url, "whole") as whole,
        Retriever(server.grpc_url, "kept") as kept,
    ):
        sides: dict[str, Side] = {
            "whole": lambda: _milliseconds(whole, query),
            "kept": lambda: _milliseconds(kept, query),
        }
        return interleave(sides, rounds, say)


def _milliseconds(retriever: Retriever, query: str) -> float:
    times = []
    for _ in range(QUERIES):
        start = time.perf_counter()
        retriever.embed_text([query], role="query")
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m periscope_perf.kept_prefixes", description=main.__doc__)
    parser.add_argument("tokenizer", type=Path, help="tokenizer.json of a published Qwen-VL")
    parser.add_argument("--recipe", nargs="+", choices=(names := keeping_recipes()), default=names, help="only these")
    parser.add_argument("--latency", action="store_true", help="exports, serves and measures too: minutes a recipe")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, help="a disk with room (default: where temporary files go)")
    arguments = parser.parse_args()
    say = progress()
    print(_line(("recipe", "tokens of a query", "kept", *(("ms whole", "ms kept", "ratio") * arguments.latency))))
    print(_line(["---"] * (6 if arguments.latency else 3)))
    for name in arguments.recipe:
        with tempfile.TemporaryDirectory(prefix="kept-prefixes-", dir=arguments.scratch) as scratch:
            recipe, folder = load_recipe(name), Path(scratch)
            cells: Iterable[object] = count(recipe, arguments.tokenizer, folder / "counted")
            if arguments.latency:
                make = partial(MAKERS[recipe.backbone], tokenizer=Tokenizer.from_file(str(arguments.tokenizer)))
                cells = (*cells, *_cells(latency(name, make, folder, arguments.rounds, say)))
            print(_line((f"`{name}`", *cells)), flush=True)
    return 0


def _cells(found: Rounds) -> Iterator[str]:
    yield from (f"{found.median(side):.1f}" for side in ("whole", "kept"))
    yield f"{statistics.median(found.ratios('kept', 'whole')):.2f}"


def _line(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(guarded("kept-prefixes", main))
