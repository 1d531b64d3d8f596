"""The cost of adapters that are chosen by row: one graph for all tasks, beside one with the adapter of a task merged.

    python -m periscope_perf.task_adapters

writes a random jina-embeddings-v4 of its published widths and four layers, exports both forms and serves them in one
server; pages a second, the time of a query that comes alone, and queries a second of many at a time, in turns. The
stacked form shares that server's memory between its tasks, where each merged one has weights of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from periscope_client import Retriever
from periscope_client.console import guarded
from periscope_export.engines import ENGINES
from periscope_export.exporter import Request, Say, export, progress
from periscope_perf.interleaved import Rounds, Side, interleave
from periscope_perf.pages import PAGE, SMALL_PAGE, page_files, queries
from periscope_perf.vocabulary import tokenizer
from periscope_serve.server import Server
from periscope_testing.jina_embeddings_v4 import TASKS, make_jina_embeddings_v4
from periscope_testing.qwen2_vl import QWEN2_VL_2B_WIDTHS

RECIPE = "jina_embeddings_v4"
# The settings of each export, by what it is called. The merged one stands for any of them: they are alike.
FORMS = {"stacked": {}, "merged": {"adapters.task": TASKS[0]}}
# Of Qwen2.5-VL-3B and the published adapters.
WIDTHS = replace(QWEN2_VL_2B_WIDTHS, heads=16, mlp=11008, dtype=torch.bfloat16)
SMALL = replace(
    WIDTHS, vision_layers=1, vision_heads=2, language_layers=1, heads=2, kv_heads=1, mlp=64, vocabulary=4096
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a table: medians, and of the rounds' ratios too; 0 where both forms give the same vectors."""
    parser = argparse.ArgumentParser(prog="python -m periscope_perf.task_adapters", description=__doc__)
    parser.add_argument(
        "--engine", choices=[name for name in ENGINES if not ENGINES[name].compiled], default="onnxruntime"
    )
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16", "int8"], help="default: the engine's own")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="a tiny checkpoint, one round: shows that it works")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="6 GB of disk (default: where temporary files go)")
    options = parser.parse_args(arguments)
    say = progress()
    with tempfile.TemporaryDirectory(prefix="task-adapters-", dir=options.scratch) as scratch, ExitStack() as running:
        folder = Path(scratch)
        say("writing a random checkpoint")
        sizes = SMALL if options.quick else WIDTHS
        checkpoint = make_jina_embeddings_v4(folder / "checkpoint", sizes, tokenizer=tokenizer())
        repositories = [_exported(checkpoint, form, folder, options, say) for form in FORMS]
        server = running.enter_context(
            Server(repositories, grpc_port=0, http_port=0, metrics_port=0, start_timeout=900, log=folder / "log")
        )
        retrievers = {form: running.enter_context(Retriever(server.grpc_url, form, timeout=600)) for form in FORMS}
        pages = page_files(options.pages, SMALL_PAGE if options.quick else PAGE)
        texts = queries(options.queries)
        apart = _apart(retrievers, pages, texts)
        rounds = 1 if options.quick else options.rounds
        found = {name: interleave(forms, rounds, say) for name, forms in measures(retrievers, pages, texts).items()}
    print(table(found))
    print(f"largest difference of a vector of the task {TASKS[0]}: {apart:.1e}")
    exact = options.engine == "onnxruntime" and options.precision in (None, "fp32")
    return 0 if apart <= 1e-4 or not exact else 1


def _exported(checkpoint: Path, form: str, folder: Path, options: argparse.Namespace, say: Say) -> Path:
    say(f"exporting {form}")
    request = Request(
        str(checkpoint),
        RECIPE,
        folder / form,
        name=form,
        engine=options.engine,
        precision=options.precision,
        settings=FORMS[form],
    )
    return export(request, lambda _: None)


def measures(
    retrievers: Mapping[str, Retriever], pages: Sequence[bytes], texts: Sequence[str]
) -> dict[str, dict[str, Side]]:
    """Return what is measured, by what it is called, of each form, by its name."""

    def paged(retriever: Retriever) -> float:
        return len(pages) / _seconds(partial(retriever.embed_image, pages, progress=False))

    def alone(retriever: Retriever) -> float:
        return 1000 * statistics.median(_seconds(partial(retriever.embed_text, [text])) for text in texts)

    def many(retriever: Retriever) -> float:
        return len(texts) / _seconds(partial(retriever.embed_text, texts, progress=False))

    measured = {"pages a second": paged, "ms a query alone": alone, "queries a second": many}
    return {
        name: {form: partial(run, retriever) for form, retriever in retrievers.items()}
        for name, run in measured.items()
    }


def table(found: Mapping[str, Rounds]) -> str:
    """Return medians of both forms, and the median, least and largest of what one is to the other in a round."""
    lines = [f"| | {' | '.join(FORMS)} | {' / '.join(FORMS)} | least | largest |", "|---|---|---|---|---|---|"]
    for measure, rounds in found.items():
        ratios = rounds.ratios(*FORMS)
        medians = [f"{rounds.median(form):.3g}" for form in FORMS]
        spread = [f"{one:.3f}" for one in (statistics.median(ratios), min(ratios), max(ratios))]
        lines.append(f"| {' | '.join((measure, *medians, *spread))} |")
    return "\n".join(lines)


def _apart(retrievers: Mapping[str, Retriever], pages: Sequence[bytes], texts: Sequence[str]) -> float:
    """Return the largest difference of a vector between the forms, of the task that both have."""
    stacked, merged = (
        [
            *one.embed_image(pages, task=TASKS[0]).late_vectors(),
            *one.embed_text(texts, task=TASKS[0]).late_vectors(),
        ]
        for one in retrievers.values()
    )
    return max(float(np.abs(one - other).max()) for one, other in zip(stacked, merged, strict=True))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(guarded("task-adapters", main))
