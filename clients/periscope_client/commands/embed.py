"""`periscope embed`: vectors of images, PDF pages or texts, into one file."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from periscope_client._embeddings import Embeddings
from periscope_client._errors import InvalidInput
from periscope_client.commands._arguments import add_instruction_arguments, count
from periscope_client.commands._files import (
    STDIN,
    file_argument,
    find_files,
    lines_of,
    output_argument,
    require_stdin_once,
    require_writable,
)
from periscope_client.commands._halt import halted_by_signals
from periscope_client.commands._pages import add_page_arguments, open_pages
from periscope_client.commands._reports import plain_errors, report_failed
from periscope_client.commands._server import add_server_arguments, open_retriever
from periscope_client.commands._vectors import VectorsFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `console.Command`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "files",
        nargs="*",
        type=file_argument,
        default=[],
        metavar="FILE",
        help="images, PDF files, folders of them, or - for paths on stdin, one a line",
    )
    what.add_argument("--text", nargs="+", metavar="TEXT", help="texts, instead of files; - for one a line on stdin")
    parser.add_argument(
        "--output", type=output_argument, required=True, metavar="VECTORS.npz", help="read it with Embeddings.load"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the file of an earlier run: what it holds is not embedded again",
    )
    parser.add_argument("--role", help="prompt of the recipe (default: query for texts, document for files)")
    parser.add_argument("--dimensions", type=count, metavar="N", help="width of the dense vectors (default: full)")
    add_instruction_arguments(parser)
    add_page_arguments(parser)
    add_server_arguments(parser)
    parser.set_defaults(refuse=parser.error)


@plain_errors("embed")
def run(args: argparse.Namespace) -> int:
    """Embed everything, save what worked, name what did not. Ctrl-C and SIGTERM end that early."""
    require_stdin_once(args, [*args.files, *(args.text or ())])
    texts = [text for given in args.text or () for text in (lines_of(STDIN) if given == "-" else [given])]
    files = find_files("embed", args.files)
    require_writable(args.output)
    options: dict[str, Any] = {name: getattr(args, name) for name in ("instruction", "task", "dimensions")}
    options["role"] = args.role or ("query" if texts else "document")
    kind: dict[str, object] = {"kind": "texts"} if texts else {"kind": "files", "dpi": args.dpi}
    file = VectorsFile(args.output, {**kind, **options}, args.resume)
    pages = open_pages(args, files)
    with open_retriever(args) as retriever:
        file.require_comparable(retriever.info())
        with halted_by_signals(retriever) as signals:
            if texts:
                embedded = retriever.embed_text(list(file.missing(texts)), on_error="keep", **options)
            else:
                embedded = retriever.embed_image(file.missing(pages), on_error="keep", **options)
            everything = file.save(embedded)
    status = report_failed("embed", embedded.errors)
    if not len(everything):
        print("periscope embed: nothing could be embedded, no file written", file=sys.stderr)
        return 128 + signals[0] if signals else 1
    print(f"{args.output}: {_summary(everything)}")
    if not all(isinstance(error.cause, InvalidInput) for error in embedded.errors.values()):
        print(
            f"periscope embed: {args.output} is incomplete. The same command with --resume goes on from there",
            file=sys.stderr,
        )
    return 128 + signals[0] if signals else status


def _summary(embeddings: Embeddings) -> str:
    parts = [f"{len(embeddings)} items"]
    if embeddings.late is not None:
        vectors = embeddings.late_vectors()
        parts.append(f"{sum(map(len, vectors))} late vectors of {vectors[0].shape[1]}")
    if embeddings.dense is not None:
        parts.append(f"dense vectors of {embeddings.dense.shape[1]}")
    return f"{', '.join(parts)}; recipe {embeddings.recipe}, fingerprint {embeddings.fingerprint}"
