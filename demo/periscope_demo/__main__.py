"""`make demo`: checkpoint -> graphs -> repository -> running Triton -> client -> ranked pages, and the same by the
published implementation.

The weights are random, so the ranking means nothing yet; that it is the published model's ranking does.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from periscope_client import Retriever, pdf_pages
from periscope_demo.checkpoint import make_checkpoint
from periscope_demo.document import QUERIES, make_document
from periscope_demo.layout import Sizes
from periscope_export.exporter import Request, export, progress
from periscope_serve.server import Server

TOLERANCE = 1e-4

Scores = npt.NDArray[np.float32]


def main() -> int:
    """Run the demonstration; 0 when served and published scores agree within 1e-4, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m periscope_demo", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="where checkpoint and repository go")
    folder: Path = parser.parse_args().output
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say = progress()

    document = make_document(folder / "report.pdf")
    pages = [page.image for page in pdf_pages(document)]
    say(f"document: {document}, {len(pages)} pages with text, a table and charts")
    checkpoint = make_checkpoint(folder / "checkpoint", Sizes(deviation=0.1))
    say(f"checkpoint: {checkpoint}, random weights in the published layout")
    repository = export(Request(str(checkpoint), "colqwen2", folder / "repository"), say)
    with Server([repository], grpc_port=0, http_port=0, metrics_port=0, log=folder / "triton.log") as server:
        say(server.ready_line())
        with Retriever(server.grpc_url, "colqwen2") as retriever:
            queries = retriever.embed_text(list(QUERIES), role="query")
            scores = retriever.maxsim(queries, retriever.embed_image(pages))
    say("server stopped; the published implementation embeds the same pages")
    from periscope_demo.reference import Reference

    reference = Reference(checkpoint)
    wanted = reference.scores(
        [reference.queries([query])[0] for query in QUERIES], [reference.images([page])[0] for page in pages]
    )
    return _report(scores, wanted)


def _report(scores: Scores, wanted: Scores) -> int:
    for query, row, wanted_row in zip(QUERIES, scores, wanted, strict=True):
        print(f"\n{query}\n  rank  served             published (colpali-engine)")
        orders = np.argsort(-row, kind="stable"), np.argsort(-wanted_row, kind="stable")
        for rank, (page, other) in enumerate(zip(*orders, strict=True), start=1):
            print(f"  {rank:>4}  page {page + 1}  {row[page]:>8.4f}   page {other + 1}  {wanted_row[other]:>8.4f}")
    same = bool((np.argsort(-scores, kind="stable") == np.argsort(-wanted, kind="stable")).all())
    difference = float(np.abs(scores - wanted).max())
    print(f"\nsame ranking: {'yes' if same else 'NO'}; scores differ by at most {difference:.1e}")
    if same and difference <= TOLERANCE:
        return 0
    print(f"demo: the served scores are not the published ones (allowed: {TOLERANCE:.0e}).", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
