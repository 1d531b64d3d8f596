"""Input data: exactly the bytes that a server decodes."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from periscope_perf import inputs
from periscope_perf.errors import ScenarioError
from periscope_perf.pages import SMALL_PAGE, page_files, queries
from periscope_perf.scenario import Load
from periscope_perf.served import Ensemble


def ensemble(*names: str, candidates: int | None = None) -> Ensemble:
    return Ensemble("toy", frozenset(names), ("step",), (), 8, candidates)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_strings_are_written_as_tritons_own_client_writes_them(elements: list[bytes]) -> None:
    written = inputs.encode(elements)
    assert written == serialize_byte_tensor(np.array(elements, np.object_)).item()
    assert list(deserialize_bytes_tensor(written)) == elements


def test_the_file(tmp_path: Path) -> None:
    pages = page_files(2, SMALL_PAGE)
    inputs.write(tmp_path / "in.json", [{"QUERY_TEXT": [b"a"], "IMAGE": pages}])
    (request,) = json.loads((tmp_path / "in.json").read_text())["data"]
    assert {name: tensor["shape"] for name, tensor in request.items()} == {"QUERY_TEXT": [1], "IMAGE": [2]}
    assert list(deserialize_bytes_tensor(base64.b64decode(request["IMAGE"]["content"]["b64"]))) == pages


def test_queries_and_pages_are_sent_one_a_request() -> None:
    texts = inputs.requests(Load(ensemble="embed_text", queries=3), ensemble("TEXT", "ROLE"), SMALL_PAGE)
    assert texts == [{"TEXT": [query.encode()]} for query in queries(3)]
    images = inputs.requests(Load(ensemble="embed_image", pages=2), ensemble("IMAGE"), SMALL_PAGE)
    assert images == [{"IMAGE": [page]} for page in page_files(2, SMALL_PAGE)]


@pytest.mark.parametrize(("most", "lengths"), [(None, [20]), (20, [20]), (8, [7, 7, 6]), (4, [4] * 5), (1, [1] * 20)])
def test_a_list_of_candidates_is_cut_as_the_server_allows(most: int | None, lengths: list[int]) -> None:
    load = Load(ensemble="rerank", queries=2, candidates=20)
    target = ensemble("QUERY_TEXT", "IMAGE", candidates=most)
    sent = inputs.requests(load, target, SMALL_PAGE)
    assert inputs.requests_per_item(load, target) == len(lengths)
    assert [len(request["IMAGE"]) for request in sent] == lengths * 2
    assert [page for request in sent for page in request["IMAGE"]] == page_files(20, SMALL_PAGE) * 2
    assert [request["QUERY_TEXT"] for request in sent[:: len(lengths)]] == [[query.encode()] for query in queries(2)]


def test_a_reranker_of_texts_gets_texts() -> None:
    load = Load(ensemble="rerank", queries=1, candidates=3)
    (request,) = inputs.requests(load, ensemble("QUERY_TEXT", "TEXT"), SMALL_PAGE)
    assert len(set(request["TEXT"])) == 3


def test_a_reranker_that_takes_nothing_of_the_scenario() -> None:
    load = Load(ensemble="rerank", queries=1, candidates=3)
    with pytest.raises(ScenarioError, match="toy: takes QUERY_TEXT, VIDEO, and the scenario has"):
        inputs.requests(load, ensemble("QUERY_TEXT", "VIDEO"), SMALL_PAGE)
