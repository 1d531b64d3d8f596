"""`periscope search`: rank images, PDF pages and stored vectors for queries."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from periscope_client._embeddings import Embeddings, Floats, check_comparable
from periscope_client._info import RetrieverInfo, choose_outputs, require_kind
from periscope_client._items import shorten
from periscope_client._sync import Retriever
from periscope_client.commands import _stored
from periscope_client.commands._arguments import TASK, add_query_and_files, count
from periscope_client.commands._files import (
    file_argument,
    find_files,
    first_file,
    image_of,
    lines_of,
    output_argument,
    require_folder,
    require_stdin_once,
)
from periscope_client.commands._pages import Pages, Place, add_page_arguments, open_pages
from periscope_client.commands._reports import plain_errors, report_failed
from periscope_client.commands._results import json_text, ranking_table
from periscope_client.commands._server import add_server_arguments, open_retriever


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `console.Command`."""
    add_query_and_files(parser, "what to look for; left out with --queries and --query-image", "--vectors")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--queries", type=file_argument, metavar="FILE", help="several queries, one a line; - is stdin")
    others.add_argument("--query-image", type=file_argument, metavar="FILE", help="image to look for, instead of QUERY")
    parser.add_argument(
        "--vectors",
        nargs="+",
        action="extend",
        type=file_argument,
        default=[],
        metavar="VECTORS.npz",
        help="what periscope embed wrote: ranked without being embedded again",
    )
    parser.add_argument("--top-k", type=count, default=10, metavar="N", help="pages to print (default: %(default)s)")
    parser.add_argument(
        "--rank-by", choices=["late", "dense"], help="the vectors to compare (default: late if the retriever has them)"
    )
    parser.add_argument("--json", action="store_true", help="print the ranking as JSON")
    parser.add_argument(
        "--maps",
        type=output_argument,
        metavar="DIR",
        help="draw what each word of the query finds on the pages printed",
    )
    parser.add_argument(
        "--instruction", metavar="TEXT", help="what the query's prompt asks for (default: that of the task)"
    )
    parser.add_argument("--task", metavar="NAME", help=f"of the query and of the files: {TASK}")
    add_page_arguments(parser)
    add_server_arguments(parser)
    parser.set_defaults(refuse=parser.error)


class _Ranked(NamedTuple):
    """A ranking of documents.

    queries: those that could be embedded.
    scores_QN: of the documents.
    documents: the file and the page of each, or its text, as JSON says it.
    places: of the last of the documents.
    failed: likewise the items that could not be embedded.
    """

    queries: list[Any]
    scores_QN: Floats
    documents: list[dict[str, object]]
    places: list[Place]
    failed: list[dict[str, object]]


@plain_errors("search")
def run(args: argparse.Namespace) -> int:
    """Print the best pages of each query, best first; name what could not be embedded."""
    files = _checked_files(args)
    queries: list[Any] = lines_of(args.queries) if args.queries else [args.query]
    if args.query_image:
        queries = [image_of(args.query_image)]
    stored = [_stored.load(path) for path in args.vectors]
    pages = open_pages(args, find_files("search", files))
    with open_retriever(args) as retriever:
        info = retriever.info()
        require_kind(info, "image" if args.query_image else "text")
        if args.maps is not None:
            choose_outputs(info, ["late"])
            require_folder(args.maps)
        ranked = _rank(retriever, args, queries, stored, pages if files else None)
        best = [np.argsort(-scores_N, kind="stable")[: args.top_k].tolist() for scores_N in ranked.scores_QN]
        if args.json:
            print(json_text(_as_json(ranked, best, info, args.queries is not None)))
        if not any(best):
            print("periscope search: nothing could be embedded, so there is nothing to rank", file=sys.stderr)
            return 1
        labels = [_label(document) for document in ranked.documents]
        for number, (query, scores_N, order) in enumerate(zip(ranked.queries, ranked.scores_QN, best, strict=True)):
            if not args.json:
                heading = [*[""] * (number > 0), shorten(query)] if args.queries else []
                print("\n".join([*heading, *ranking_table(scores_N, labels, order)]), flush=True)
            if args.maps is not None:
                name = f"{number + 1}-{_slug(query)}" if args.queries else _slug(query)
                draw_maps(retriever, query, pages, [ranked.places[index] for index in order], args.maps / name)
    return 1 if ranked.failed else 0


def _checked_files(args: argparse.Namespace) -> list[Path]:
    """The FILE arguments, where the arguments go together; else the end of the program with status 2."""
    other = args.queries or args.query_image
    files: list[Path] = [*first_file(args), *args.files] if other else args.files
    if not (other or args.query is not None) or not (files or args.vectors):
        args.refuse("give a QUERY (or --queries, --query-image) and something to rank: files, or --vectors")
    require_stdin_once(args, [args.queries, args.query_image, *files])
    if args.maps is not None and (args.vectors or args.query_image):
        args.refuse("--maps draws what a text finds on pages: leave --vectors and --query-image out, and give files")
    if args.maps is not None and args.task is not None:
        args.refuse("--maps draws what is found in the recipe's default task: leave --task out")
    return files


def _rank(
    retriever: Retriever,
    args: argparse.Namespace,
    queries: list[Any],
    stored: Sequence[_stored.Stored],
    pages: Pages | None,
) -> _Ranked:
    """Embed queries and pages, name on stderr what cannot be, and compare. A single query that fails is raised."""
    info = retriever.info()
    _stored.require_comparable(stored, info)
    output, width = _stored.choose_compared(args.rank_by, info, stored)
    options: dict[str, Any] = {"task": args.task, "outputs": [output], "dimensions": width, "on_error": "keep"}
    embed = retriever.embed_image if args.query_image else retriever.embed_text
    asked = embed(queries, role="query", instruction=args.instruction, **options)
    if asked.errors and not args.queries:
        raise asked.errors[0].cause
    report_failed("search", asked.errors)
    failed: list[dict[str, object]] = [{"query": queries[i], "error": str(e.cause)} for i, e in asked.errors.items()]
    parts = []
    documents = []
    for one in stored:
        report_failed("search", one.embeddings.errors)
        failed += [{**one.document(e.name), "error": str(e.cause)} for e in one.embeddings.errors.values()]
        parts.append(one.only(output).without_failed())
        documents += [one.document(name) for name in parts[-1].names]
    places: list[Place] = []
    if pages is not None and len(asked.errors) < len(asked):
        embedded = retriever.embed_image(pages, **options)
        report_failed("search", embedded.errors)
        failed += [{**_document(pages.places[i]), "error": str(e.cause)} for i, e in embedded.errors.items()]
        places = [place for i, place in enumerate(pages.places[: len(embedded)]) if i not in embedded.errors]
        documents += [_document(place) for place in places]
        parts.append(embedded.without_failed())
    scores_QN = _scores(retriever, asked.without_failed(), [part for part in parts if len(part)])
    answered = [query for i, query in enumerate(queries) if i not in asked.errors]
    return _Ranked(answered, scores_QN, documents, places, failed)


def _scores(retriever: Retriever, queries: Embeddings, parts: Sequence[Embeddings]) -> Floats:
    """Scores [Q, N] of all parts: late interaction, or the cosine where only dense vectors were asked for."""
    if not parts or not len(queries):
        return np.zeros((len(queries), 0), np.float32)
    documents = Embeddings.concat(parts)
    if queries.dense is None:
        return retriever.maxsim(queries, documents)
    check_comparable(queries, documents)
    cosines_QN: Floats = queries.dense_vectors() @ documents.dense_vectors().T
    return cosines_QN


def _as_json(ranked: _Ranked, best: list[list[int]], info: RetrieverInfo, several: bool) -> dict[str, object]:
    rankings = [
        [
            {"rank": rank, "score": float(scores_N[place]), **ranked.documents[place]}
            for rank, place in enumerate(order, start=1)
        ]
        for scores_N, order in zip(ranked.scores_QN, best, strict=True)
    ]
    pairs = zip(ranked.queries, rankings, strict=True)
    return {
        "recipe": info.recipe,
        "fingerprint": info.fingerprint,
        **({"rankings": [{"query": a, "ranking": b} for a, b in pairs]} if several else {"ranking": rankings[0]}),
        "failed": ranked.failed,
    }


def _document(place: Place) -> dict[str, object]:
    return {"file": str(place.file), "page": place.page}


def _label(document: Mapping[str, Any]) -> tuple[str, int | None]:
    """A document's words in the table: a file and a page, or a text on one line."""
    return (document["file"], document["page"]) if "file" in document else (repr(shorten(document["text"])), None)


def draw_maps(retriever: Retriever, query: str, pages: Pages, best: Sequence[Place], start: Path) -> None:
    """Write a sheet of similarity maps for each page, named `start`, rank and page, and say where."""
    for rank, place in enumerate(best, start=1):
        page = pages.read(place)
        number = "" if place.page is None else f"-page-{place.page}"
        sheet = Path(f"{start}-{rank:0{len(str(len(best)))}}-{_slug(place.file.stem)}{number}.png")
        retriever.similarity_maps(query, page).picture(page).save(sheet)
        print(f"maps of rank {rank}: {sheet}", flush=True)


def _slug(text: str) -> str:
    """Letters and digits of any script, short enough for the name of a file."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:30] or "_"
