"""`periscope rerank`: read a query together with each image, PDF page or text, and rank them."""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import Any

from periscope_client._errors import RequestError
from periscope_client._items import shorten
from periscope_client._rerank import Reranking
from periscope_client.commands._arguments import add_instruction_arguments, add_query_and_files, count
from periscope_client.commands._files import (
    STDIN,
    file_argument,
    find_files,
    first_file,
    image_of,
    lines_of,
    require_stdin_once,
)
from periscope_client.commands._pages import Pages, add_page_arguments, open_pages
from periscope_client.commands._reports import plain_errors, report_failed
from periscope_client.commands._results import json_text, ranking_table
from periscope_client.commands._server import add_server_arguments, open_retriever


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `console.Command`."""
    add_query_and_files(parser, "text to rank for; left out with --query-image", "--text")
    parser.add_argument("--query-image", type=file_argument, metavar="FILE", help="image to rank for, instead of QUERY")
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="TEXT",
        help="text to rank beside the files, - for one a line on stdin; may be repeated",
    )
    parser.add_argument(
        "--top-k", type=count, default=10, metavar="N", help="documents to print (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the ranking as JSON")
    add_instruction_arguments(parser)
    add_page_arguments(parser)
    add_server_arguments(parser)
    parser.set_defaults(refuse=parser.error)


@plain_errors("rerank")
def run(args: argparse.Namespace) -> int:
    """Print the best documents, best first; name those that could not be ranked."""
    files = [*first_file(args), *args.files] if args.query_image else args.files
    if (args.query_image or args.query) is None or not (files or args.text):
        args.refuse("give a QUERY (or --query-image) and something to rank: files, or --text")
    require_stdin_once(args, [args.query_image, *files, *args.text])
    texts = [text for given in args.text for text in (lines_of(STDIN) if given == "-" else [given])]
    pages = open_pages(args, find_files("rerank", files))
    query = image_of(args.query_image) if args.query_image else args.query
    with open_retriever(args) as retriever:
        try:
            ranking = retriever.rerank(
                query,
                itertools.chain(texts, pages),
                instruction=args.instruction,
                task=args.task,
                top_n=args.top_k,
            )
            ended = False
        except RequestError as error:
            if error.ranking is None or not error.ranking.order:
                raise
            ranking, ended = error.ranking, True
    status = report_failed("rerank", ranking.errors)
    if ended:
        print(
            f"periscope rerank: the ranking is incomplete: nothing after {shorten(ranking.names[-1], 200)} was sent",
            file=sys.stderr,
        )
    if args.json:
        print(json_text(_as_json(ranking, texts, pages)))
    elif ranking.order:
        labels: list[tuple[object, int | None]] = [(repr(shorten(text)), None) for text in texts]
        print("\n".join(ranking_table(ranking.scores, [*labels, *pages.places], ranking.order)))
    if not ranking.order:
        print("periscope rerank: no document could be scored, so there is nothing to rank", file=sys.stderr)
    return status


def _as_json(ranking: Reranking, texts: list[str], pages: Pages) -> dict[str, Any]:
    documents: list[dict[str, object]] = [{"text": text} for text in texts]
    documents += [{"file": str(place.file), "page": place.page} for place in pages.places]
    return {
        "recipe": ranking.recipe,
        "fingerprint": ranking.fingerprint,
        "ranking": [
            {"rank": rank, "score": float(ranking.scores[place]), **documents[place]}
            for rank, place in enumerate(ranking.order, start=1)
        ],
        "failed": [{**documents[place], "error": str(error.cause)} for place, error in ranking.errors.items()],
    }
