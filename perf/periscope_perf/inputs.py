"""Input data: what perf_analyzer sends, as the file that `--input-data` reads.

A string tensor is written as base64 of its elements, each behind its length (4 bytes, little-endian): as it goes over
the wire. perf_analyzer passes these bytes on as they are.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from periscope_perf import pages
from periscope_perf.errors import ScenarioError
from periscope_perf.scenario import Load
from periscope_perf.served import Ensemble

Request: TypeAlias = dict[str, list[bytes]]
"""One request: the elements of each tensor. perf_analyzer adds the axis of rows where a model has one."""


def requests(load: Load, ensemble: Ensemble, size: tuple[int, int]) -> list[Request]:
    """The requests of a load, in the order in which they are sent. `size`: width and height of a page in pixels.

    Raises: ScenarioError when the ensemble takes nothing that the scenario has.
    """
    if load.ensemble == "embed_image":
        return [{"IMAGE": [page]} for page in pages.page_files(load.pages, size)]
    queries = [query.encode() for query in pages.queries(load.queries)]
    if load.ensemble == "embed_text":
        return [{"TEXT": [query]} for query in queries]
    return [
        {"QUERY_TEXT": [query], **candidates} for query in queries for candidates in _candidates(load, ensemble, size)
    ]


def requests_per_item(load: Load, ensemble: Ensemble) -> int:
    """The number of requests of one item of the scenario: a list of candidates may be longer than a request holds."""
    if load.ensemble != "rerank":
        return 1
    return -(-load.candidates // (ensemble.candidates or load.candidates))


def write(path: Path, sent: Sequence[Request]) -> None:
    """Write requests as perf_analyzer reads them."""
    data = [{name: _tensor(elements) for name, elements in request.items()} for request in sent]
    path.write_text(json.dumps({"data": data}), encoding="utf-8")


def encode(elements: Sequence[bytes]) -> bytes:
    """The elements of a string tensor as they go over the wire."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def _tensor(elements: Sequence[bytes]) -> dict[str, object]:
    return {"content": {"b64": base64.b64encode(encode(elements)).decode()}, "shape": [len(elements)]}


def _candidates(load: Load, ensemble: Ensemble, size: tuple[int, int]) -> list[Request]:
    if "QUERY_TEXT" not in ensemble.inputs or not ensemble.inputs & {"IMAGE", "TEXT"}:
        raise ScenarioError(
            f"{ensemble.name}: takes {', '.join(sorted(ensemble.inputs))}, and the scenario has a text and its "
            "candidates. Leave the scenario out"
        )
    if "IMAGE" in ensemble.inputs:
        name, items = "IMAGE", pages.page_files(load.candidates, size)
    else:
        name, items = "TEXT", [text.encode() for text in pages.passages(load.candidates)]
    most = -(-len(items) // requests_per_item(load, ensemble))  # requests of like length
    return [{name: items[first : first + most]} for first in range(0, len(items), most)]
