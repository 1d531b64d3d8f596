"""Late and dense vectors of one retriever: each has a head, which runs where it is asked for."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from e2e.exported import Exported
from e2e.pages import column, draw_page, encode, infer
from periscope_client import MissingVectors, Retriever
from periscope_client._contract import Output
from periscope_serve.server import Server


def head_runs(triton: InferenceServerClient, exported: Exported) -> dict[str, int]:
    """Rows that each head has computed; read until it stands still, because Triton answers first and counts then."""

    def read() -> dict[str, int]:
        models = {output: f"{exported.name}_{output}_head" for output in ("late", "dense")}
        statistics = {output: triton.get_inference_statistics(model).model_stats for output, model in models.items()}
        return {output: versions[0].inference_count for output, versions in statistics.items()}

    earlier, now = None, read()
    while earlier != now:
        time.sleep(0.3)
        earlier, now = now, read()
    return now


@pytest.mark.parametrize("outputs", [("late",), ("dense",), ("late", "dense")])
def test_only_the_head_that_is_wanted_runs(
    server: Server, triton: InferenceServerClient, trained: Exported, outputs: tuple[Output, ...]
) -> None:
    before = head_runs(triton, trained)
    with Retriever(server.grpc_url, trained.name) as retriever:
        query = retriever.embed_text(["revenue"], outputs=outputs)
        page = retriever.embed_image([draw_page(100, 100)], outputs=outputs)
    after = head_runs(triton, trained)
    wanted = {output: 2 if output in outputs else 0 for output in after}
    assert {output: after[output] - before[output] for output in after} == wanted
    for found in (query, page):
        assert (found.late is not None, found.dense is not None) == ("late" in outputs, "dense" in outputs)


@pytest.mark.parametrize(("model", "name"), [("embed_text", "TEXT"), ("embed_image", "IMAGE")])
def test_every_choice_of_outputs_is_answered_alike(
    triton: InferenceServerClient, trained: Exported, model: str, name: str
) -> None:
    """Triton prunes steps by the outputs that are asked for; no choice that has a vector in it may be pruned away."""
    inputs = {name: column([b"revenue" if name == "TEXT" else encode(draw_page(100, 100))])}
    everything = infer(triton, f"{trained.name}_{model}", inputs)
    for count in range(1, len(everything) + 1):
        for choice in itertools.combinations(everything, count):
            if not {"late", "dense"} & set(choice):
                continue
            found = infer(triton, f"{trained.name}_{model}", inputs, choice)
            assert found.keys() == set(choice)
            for output, tensor in found.items():
                np.testing.assert_array_equal(tensor, everything[output])


def test_a_retriever_without_one_has_none(retriever: Retriever) -> None:
    assert retriever.info().outputs == ("late",)
    assert retriever.embed_text(["revenue"]).dense is None
    with pytest.raises(MissingVectors, match="has no dense vectors, only late ones"):
        retriever.embed_text(["revenue"], outputs=["dense"])
