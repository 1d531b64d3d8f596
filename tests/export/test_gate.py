"""The distance of graphs from the towers: measured right, and refused with its cause where too large or no number."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from periscope_export.errors import ExportError
from periscope_export.fidelity.closeness import cosines, measure
from periscope_export.fidelity.gate import FidelityError, furthest_step, problems, recorded, require
from periscope_export.fidelity.record import Array, Golden, Run, require_finite, run_step
from periscope_export.recipes.schema import Tolerance

STEPS = {"vision": ["image"], "language": ["text", "image"], "head": ["text", "image"], "maxsim": ["search"]}
TOKENS = 8  # of a query
WIDE = Tolerance(scores=2)


def exact(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
    if step == "vision":
        return {"visual": 2 * tensors["patches"]}
    if step == "language":
        return {"states": tensors["ids"] + tensors.get("visual", 0.0)}
    if step == "head":
        norm = np.linalg.norm(tensors["states"], axis=-1, keepdims=True)
        return {"late": tensors["states"] / norm * tensors["late_mask"][..., None]}
    similarities = np.einsum("qtk,nsk->qtns", tensors["query_late"], tensors["document_late"])
    return {"score": (similarities.max(-1) * tensors["query_mask"][..., None]).sum(1)}


def off(step: str, change: Any) -> Run:
    """Return what runs all steps, and changes the first output of one of them, an array, before it is handed on."""

    def run(name: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        outputs = exact(name, tensors)
        if name == step:
            for key, array in outputs.items():
                outputs[key] = array.copy()
                change(outputs[key])
        return outputs

    return run


@pytest.fixture
def golden() -> Golden:
    """Four queries, the last token of each padding, and four pages."""
    random = np.random.default_rng(0)
    mask = np.ones((4, TOKENS + 1), np.int32)
    mask[:, -1] = 0
    tensors: Golden = {
        "text": {"ids": random.standard_normal((4, TOKENS + 1, 16)), "late_mask": mask},
        "image": {
            "ids": random.standard_normal((4, 20, 16)),
            "patches": random.standard_normal((4, 20, 16)),
            "late_mask": np.ones((4, 20), np.int32),
        },
        "search": {},
    }
    for step, paths in STEPS.items():
        for path in paths:
            run_step(step, path, tensors, exact)
    return tensors


def nothing(array: Array) -> None:
    pass


def turned(array: Array) -> None:
    """Token 3 of the third row is turned by 60 degrees."""
    vector = array[2, 3]
    other = np.roll(vector, 1)
    other -= other @ vector / (vector @ vector) * vector
    other *= np.linalg.norm(vector) / np.linalg.norm(other)
    array[2, 3] = 0.5 * vector + np.sqrt(0.75) * other


def test_nothing_is_wrong_with_the_towers_themselves(golden: Golden) -> None:
    measured = measure(golden, STEPS, exact)
    assert measured["vectors"]["max_abs_error"] == measured["retrieval"]["max_error_by_token"] == 0
    assert measured["vectors"]["min_cosine"] == pytest.approx(1)
    assert measured["vectors"]["vectors"] == 4 * TOKENS + 4 * 20  # padding is none
    assert measured["retrieval"]["kendall_tau"] == measured["retrieval"]["same_first_page"] == 1
    assert problems(measured, Tolerance(vectors=1e-9, cosine=1 - 1e-9, mean_cosine=1 - 1e-9, scores=1e-9)) == []
    json.dumps(measured, allow_nan=False)


@pytest.mark.parametrize(("step", "path"), [("vision", "image"), ("language", "text"), ("head", "text")])
def test_the_furthest_vector_and_the_step_that_brings_it_in(golden: Golden, step: str, path: str) -> None:
    measured = measure(golden, STEPS, off(step, turned))
    furthest = measured["vectors"]["furthest"][0]
    assert (furthest["row"], furthest["token"]) == (2, 3)
    if step != "vision":
        assert furthest["cosine"] == measured["vectors"]["min_cosine"] == pytest.approx(0.5)
    # Exact from the next step on, and as wrong as it is up to this one.
    since, order = furthest["since"], list(STEPS)
    assert since[order[order.index(step) + 1]] == pytest.approx(1)
    assert since["vision"] == since[step] == furthest["cosine"]
    assert furthest_step(measured, Tolerance(cosine=0.99, scores=2)) == step
    (problem,) = problems(measured, Tolerance(cosine=0.99, scores=2))
    assert f"token 4 of {'the query' if path == 'text' else 'the page'} 'energy'" in problem or path == "image"
    assert f"through {step}" in problem


def test_a_score_counts_by_token_of_its_query(golden: Golden) -> None:
    """A tenth on a sum over eight tokens is an eightieth."""

    def higher(array: Array) -> None:
        array[1, 2] += 0.1

    measured = measure(golden, STEPS, off("maxsim", higher))
    assert measured["retrieval"]["max_abs_error"] == pytest.approx(0.1)
    assert measured["retrieval"]["max_error_by_token"] == pytest.approx(0.1 / TOKENS)
    assert problems(measured, Tolerance(scores=0.1 / TOKENS + 1e-6)) == []
    (problem,) = problems(measured, Tolerance(scores=0.1 / TOKENS - 1e-6))
    score = golden["search"]["score"][1, 2]
    assert f"'Which month had the most visitors?' with the page 'Energy and cost' {score + 0.1:.4f}" in problem
    assert f"instead of {score:.4f} through maxsim" in problem


def test_pages_may_change_places_only_where_their_scores_are_next_to_each_other(golden: Golden) -> None:
    """Each score moves by 0.6 of their gap, so that they do; the gap decides."""
    first, second = np.argsort(golden["search"]["score"][0])[-2:]
    gap = float(golden["search"]["score"][0, second] - golden["search"]["score"][0, first]) / TOKENS

    def swap(array: Array) -> None:
        array[0, first] += 0.6 * gap * TOKENS
        array[0, second] -= 0.6 * gap * TOKENS

    measured = measure(golden, STEPS, off("maxsim", swap))
    assert measured["retrieval"]["largest_swapped_gap"] == pytest.approx(gap)
    assert measured["retrieval"]["same_first_page"] == 0.75
    assert problems(measured, Tolerance(scores=1.01 * gap)) == []
    # The scores themselves are close enough here, and the order is not.
    (problem,) = problems(measured, Tolerance(scores=0.99 * gap))
    assert problem.startswith("pages changed places whose scores lie")


def test_pages_that_are_alike_all_of_a_sudden_have_changed_places(golden: Golden) -> None:
    def level(array: Array) -> None:
        array[:] = array.mean(axis=1, keepdims=True)

    assert measure(golden, STEPS, off("maxsim", level))["retrieval"]["largest_swapped_gap"] > 0


def test_cosines() -> None:
    found = np.array([[1, 0], [0, 0], [0, 0], [1, 1], [np.nan, 1], [np.inf, 1]])
    wanted = np.array([[2, 0], [0, 0], [1, 0], [0, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(cosines(found, wanted), [1, 1, 0, 0, np.nan, np.nan])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("row", [0, 3])
def test_what_is_no_number_is_refused_by_everything(golden: Golden, step: str, row: int, value: float) -> None:
    def spoil(array: Array) -> None:
        array[row, 1] = value

    measured = measure(golden, STEPS, off(step, spoil))
    assert problems(measured, WIDE)
    assert furthest_step(measured, WIDE) == step
    if step != "maxsim":
        for tolerance in (Tolerance(vectors=1e9, scores=1e9), Tolerance(mean_cosine=-1, scores=1e9)):
            assert any("vectors" in problem for problem in problems(measured, tolerance))


def test_towers_that_make_no_numbers_are_not_compared_with(golden: Golden) -> None:
    require_finite(golden)
    golden["image"]["late"][1, 5, 0] = np.nan
    with pytest.raises(ExportError, match=r"in fp32 too .* of the page 'Visitors by month' \(late\)"):
        require_finite(golden)


def test_a_reranker_is_judged_by_its_scores() -> None:
    steps = {"tower": ["rerank"], "head": ["rerank"]}

    def run(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        return {"states": tensors["ids"]} if step == "tower" else {"score": tensors["states"][:, :1]}

    golden: Golden = {"rerank": {"ids": np.array([[0.1], [0.5], [0.9]])}}
    for step in steps:
        run_step(step, "rerank", golden, run)

    def lower(step: str, tensors: Mapping[str, Array]) -> dict[str, Array]:
        outputs = run(step, tensors)
        return {"states": outputs["states"] - [[0], [0], [0.03]]} if step == "tower" else outputs

    measured = measure(golden, steps, lower)
    assert measured["retrieval"]["max_error_by_token"] == pytest.approx(0.03)
    (problem,) = problems(measured, Tolerance(cosine=0.99, mean_cosine=0.99, scores=0.02))
    assert "pair 3 0.8700 instead of 0.9000 through tower" in problem


def test_a_refusal_says_what_was_measured_and_what_would_help(golden: Golden) -> None:
    measured = measure(golden, STEPS, off("head", turned))
    require(measured, WIDE)
    with pytest.raises(FidelityError, match="Try bf16") as refused:
        require(measured, Tolerance(cosine=0.99, scores=2), "Try bf16.")
    assert refused.value.measured is measured
    # Exports run in processes of their own, too.
    assert pickle.loads(pickle.dumps(refused.value)).measured["vectors"]["min_cosine"] == pytest.approx(0.5)


def test_repositories_of_earlier_versions_are_held_to_what_they_were_exported_with() -> None:
    assert recorded(0.02) == Tolerance(vectors=0.02, scores=0.02)
    tolerance = Tolerance(cosine=0.9, scores=0.01)
    assert recorded(json.loads(tolerance.model_dump_json())) == tolerance
