"""Every reranker: the scores of all kinds of pairs are the published ones, whatever is beside a pair."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from contract.items import INSTRUCTIONS, sides
from contract.served import Served
from contract.tolerances import PARITY, SCORE
from e2e.pages import encode
from periscope_testing.reference import Floats, Item


def side(item: Item) -> dict[str, Any]:
    """One side of a pair as the client takes it: pictures as files."""
    video = {} if item.video is None else {"video": [encode(frame) for frame in item.video]}
    return {**item.contents(), **({} if item.image is None else {"image": encode(item.image)}), **video}


def score(served: Served, query: Item, documents: list[Item], **asked: Any) -> Floats:
    found = served.retriever.rerank(side(query), [side(document) for document in documents], **asked)
    assert not found.errors
    assert found.order == np.argsort(-found.scores).tolist()
    return found.scores


def strings(*values: bytes) -> NDArray[Any]:
    return np.array(values, dtype=object)


def test_every_kind_of_pair_has_the_published_score(reranker: Served) -> None:
    """Each kind as a query and as a document, beside a text and beside the kind before it."""
    kinds = list(sides(reranker.recipe).values())
    for place, query in enumerate(kinds):
        documents = kinds if place == 0 else [kinds[0], kinds[place - 1]]
        wanted = reranker.reference.scores(query, documents)
        np.testing.assert_allclose(score(reranker, query, documents), wanted, rtol=0, atol=PARITY)


def test_instructions_of_pairs(reranker: Served) -> None:
    preparation = reranker.recipe.preparation
    query, documents = Item("revenue"), [Item("The revenue grew by a fifth in 2024.")]
    options = [({"instruction": one}, one) for one in INSTRUCTIONS]
    options += [({"task": name}, words) for name, task in preparation.tasks.items() for words in task.instructions]
    for option, instruction in options:
        wanted = reranker.reference.scores(Item("revenue", instruction=instruction), documents)
        np.testing.assert_allclose(score(reranker, query, documents, **option), wanted, rtol=0, atol=PARITY)


def test_tokens_of_pairs_are_the_published_ones(reranker: Served) -> None:
    for document in sides(reranker.recipe).values():
        query = Item("Which one?")
        files = side(document)
        inputs: dict[str, NDArray[Any]] = {
            "QUERY_TEXT": strings(b"Which one?"),
            "TEXT": strings((document.text or "").encode()),
        }
        if "image" in files:
            inputs["IMAGE"] = strings(files["image"])
        if "video" in files:
            inputs |= {
                "VIDEO": strings(*files["video"]),
                "VIDEO_FRAMES": np.array([len(files["video"])], np.int32),
            }
        outputs = reranker.step("preprocess_rerank", inputs)
        wanted = reranker.reference.ids(query, document)
        np.testing.assert_array_equal(outputs["input_ids"][0][: len(wanted)], wanted)
        assert not outputs["input_ids"][0][len(wanted) :].any()
        if document.image is not None and document.text is None:
            real = outputs["patch_segments"][0] >= 0
            np.testing.assert_array_equal(outputs["patches"][0][real], reranker.reference.pixels(document.image))


def test_a_candidate_in_a_request_scores_as_alone(reranker: Served) -> None:
    """In several requests, of different lengths, in both orders."""
    documents = [Item(f"document {number}, " * (1 + number % 4)) for number in range(11)]
    query = Item("energy")
    found = score(reranker, query, documents)
    alone = np.concatenate([score(reranker, query, [document]) for document in documents[:5]])
    np.testing.assert_allclose(found[:5], alone, rtol=0, atol=SCORE)
    np.testing.assert_allclose(score(reranker, query, documents[::-1])[::-1], found, rtol=0, atol=SCORE)


def test_a_broken_candidate_keeps_to_itself(reranker: Served) -> None:
    page = side(sides(reranker.recipe)["image"])["image"]
    inputs = {
        "QUERY_TEXT": strings(b"energy"),
        "TEXT": strings(b"", b"\xff", b"", b"cost"),
        "IMAGE": strings(page, b"", b"no image", page),
    }
    outputs = reranker.step("rerank", inputs)
    statuses = [status.decode() for status in outputs["status"]]
    assert [bool(status) for status in statuses] == [False, True, True, False]
    assert statuses[2].startswith("preprocess: candidate 2: is not an image that can be read. Send")
    assert statuses[1].startswith("preprocess: candidate 1: is not valid UTF-8")
    np.testing.assert_array_equal(np.isnan(outputs["score"][:, 0]), [bool(status) for status in statuses])
    fine = [0, 3]
    kept = {"QUERY_TEXT": inputs["QUERY_TEXT"], "TEXT": inputs["TEXT"][fine], "IMAGE": inputs["IMAGE"][fine]}
    alone = reranker.step("rerank", kept)
    np.testing.assert_allclose(outputs["score"][fine], alone["score"], rtol=0, atol=SCORE)
    empty = reranker.step("rerank", {"QUERY_TEXT": strings(b"energy"), "TEXT": strings(b"", b"cost")})
    assert [bool(status) for status in empty["status"]] == [True, False]


def test_a_broken_query_fails_the_request(reranker: Served) -> None:
    inputs = {"QUERY_IMAGE": strings(b"no image"), "TEXT": strings(b"cost", b"energy")}
    with pytest.raises(InferenceServerException, match="preprocess: query: is not an image that can be read"):
        reranker.step("rerank", inputs)


def test_too_many_candidates_are_refused(reranker: Served) -> None:
    limit = reranker.recipe.batch.pair
    inputs = {"QUERY_TEXT": strings(b"energy"), "TEXT": strings(*[b"cost"] * (limit + 1))}
    with pytest.raises(InferenceServerException, match=f"has {limit + 1} candidates, above the limit of {limit}"):
        reranker.step("rerank", inputs)
