"""`make demo`: checkpoint -> graphs -> repository -> running Triton -> client -> ranked pages and similarity maps.

Beside the served ranking stands the one by the published implementation, from the same checkpoint.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from periscope_client import Retriever, pdf_pages
from periscope_client.console import guarded
from periscope_demo.document import demo_set, make_document
from periscope_demo.evaluation import EvaluationSet
from periscope_demo.shipped import SHIPPED_RECIPE, shipped_checkpoint
from periscope_export.exporter import Request, export, progress
from periscope_serve.server import Server

TOLERANCE = 1e-4
SHOWN = 3

Scores = npt.NDArray[np.float32]


def main() -> int:
    """Run the demonstration; 0 when right pages come first with the published scores, within 1e-4, else 1."""
    parser = argparse.ArgumentParser(prog="python -m periscope_demo", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="where document and repository go")
    folder: Path = parser.parse_args().output
    say = progress()
    try:
        _clear(folder)
    except OSError as error:
        print(f"demo: {folder} cannot be written ({error.strerror}). Name another folder: --output.", file=sys.stderr)
        return 1

    wanted = demo_set()
    texts = [query.text for query in wanted.queries]
    document = make_document(folder / "report.pdf")
    pages = [page.image for page in pdf_pages(document)]
    say(f"document: {document}, {len(pages)} pages with headings, paragraphs, tables and charts")
    repository = export(Request(str(shipped_checkpoint()), SHIPPED_RECIPE, folder / "repository"), say)
    with Server([repository], grpc_port=0, http_port=0, metrics_port=0, log=folder / "triton.log") as server:
        say(server.ready_line())
        with Retriever(server.grpc_url, SHIPPED_RECIPE) as retriever:
            queries = retriever.embed_text(texts, role="query")
            scores = retriever.maxsim(queries, retriever.embed_image(pages))
            for number, (text, best) in enumerate(zip(texts, scores.argmax(1), strict=True), start=1):
                maps = retriever.similarity_maps(text, pages[best])
                maps.picture(pages[best]).save(folder / "maps" / f"query-{number}-page-{best + 1}.png")
    say("server stopped; the published implementation embeds the same pages")
    from periscope_testing.colqwen2.reference import ColQwen2Reference

    reference = ColQwen2Reference(shipped_checkpoint())
    published = reference.maxsim(
        [reference.queries([text])[0] for text in texts], [reference.images([page])[0] for page in pages]
    )
    status = _report(wanted, scores, published)
    print(f"why these pages: {folder / 'maps'} shows where on the page each word of the query is found")
    return status


def _clear(folder: Path) -> None:
    """Remove what an earlier demonstration wrote, and nothing else: the folder may be anyone's. Raises: OSError."""
    for name in ("repository", "maps"):
        if (folder / name).exists():
            shutil.rmtree(folder / name)
    (folder / "maps").mkdir(parents=True)


def _report(wanted: EvaluationSet, scores: Scores, published: Scores) -> int:
    found = 0
    for query, relevant_N, row, other_row in zip(wanted.queries, wanted.relevant_QN, scores, published, strict=True):
        right = ", ".join(str(page + 1) for page in np.flatnonzero(relevant_N))
        print(f"\n{query.text}   (right: page {right})\n  rank  served             published (colpali-engine)")
        orders = np.argsort(-row, kind="stable"), np.argsort(-other_row, kind="stable")
        for rank, (page, other) in enumerate(zip(*orders, strict=True), start=1):
            if rank <= SHOWN:
                print(
                    f"  {rank:>4}  page {page + 1:<2} {row[page]:>8.4f}   page {other + 1:<2} {other_row[other]:>8.4f}"
                )
        found += bool(relevant_N[orders[0][0]])
    difference = float(np.abs(scores - published).max())
    print(f"\nright page first: {found} of {len(scores)} queries; scores differ by at most {difference:.1e}")
    if found == len(scores) and difference <= TOLERANCE:
        return 0
    print(f"demo: a wrong page, or other scores than the published ones (allowed: {TOLERANCE:.0e}).", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(guarded("demo", main))
