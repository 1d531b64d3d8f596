"""`periscope search`: rank images and PDF pages for a query."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from periscope_client._embeddings import Embeddings, Floats, check_comparable
from periscope_client._info import choose_outputs, require_kind
from periscope_client._sync import Retriever
from periscope_client.commands._common import (
    Pages,
    Place,
    add_common_arguments,
    count,
    open_retriever,
    plain_errors,
    ranking_table,
    report_failed,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `console.Command`."""
    parser.add_argument("query", metavar="QUERY", help="what to look for")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="images and PDF files")
    parser.add_argument("--top-k", type=count, default=10, metavar="N", help="pages to print (default: %(default)s)")
    parser.add_argument(
        "--rank-by", choices=["late", "dense"], help="the vectors to compare (default: late if the retriever has them)"
    )
    parser.add_argument(
        "--maps", type=Path, metavar="DIR", help="draw what each word of the query finds on the pages printed"
    )
    parser.add_argument(
        "--instruction", metavar="TEXT", help="what the query's prompt asks for (default: the recipe's)"
    )
    add_common_arguments(parser)


@plain_errors("search")
def run(args: argparse.Namespace) -> int:
    """Print the best pages, best first; name the files that could not be ranked."""
    pages = Pages(args.files, args.dpi)
    with open_retriever(args) as retriever:
        info = retriever.info()
        require_kind(info, "text")
        if args.maps is not None:
            choose_outputs(info, ["late"])
            args.maps.mkdir(parents=True, exist_ok=True)
        output = args.rank_by or info.outputs[0]
        query = retriever.embed_text([args.query], instruction=args.instruction, outputs=[output], on_error="keep")
        if query.errors:
            raise query.errors[0].cause
        documents = retriever.embed_image(pages, outputs=[output], on_error="keep")
        status = report_failed("search", documents.errors)
        places = [place for index, place in enumerate(pages.places[: len(documents)]) if index not in documents.errors]
        documents = documents.without_failed()
        if not len(documents):
            print("periscope search: no page could be embedded, so there is nothing to rank", file=sys.stderr)
            return 1
        scores_N = _scores(retriever, query, documents)[0]
        best = np.argsort(-scores_N, kind="stable")[: args.top_k].tolist()
        print("\n".join(ranking_table(scores_N, places, best)), flush=True)
        if args.maps is not None:
            draw_maps(retriever, args.query, pages, [places[index] for index in best], args.maps)
    return status


def draw_maps(retriever: Retriever, query: str, pages: Pages, best: Sequence[Place], folder: Path) -> None:
    """Write a sheet of similarity maps for each page, named by query, rank and page, and say where."""
    for rank, place in enumerate(best, start=1):
        page = pages.read(place)
        number = "" if place.page is None else f"-page-{place.page}"
        sheet = folder / f"{_slug(query)}-{rank:0{len(str(len(best)))}}-{_slug(place.file.stem)}{number}.png"
        retriever.similarity_maps(query, page).picture(page).save(sheet)
        print(f"maps of rank {rank}: {sheet}", flush=True)


def _slug(text: str) -> str:
    """Letters and digits of any script, short enough for the name of a file."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:30] or "_"


def _scores(retriever: Retriever, query: Embeddings, documents: Embeddings) -> Floats:
    """Scores [Q, N]: late interaction, or the cosine where only dense vectors were asked for."""
    if query.dense is None:
        return retriever.maxsim(query, documents)
    check_comparable(query, documents)
    cosines_QN: Floats = query.dense_vectors() @ documents.dense_vectors().T
    return cosines_QN
