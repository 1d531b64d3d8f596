"""A language model that keeps the prefixes of its prompts, beside the same one that reads them whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from e2e.pages import draw_page, encode
from export.qwen3_vl_rows import with_visual_tokens
from periscope_export.fidelity.record import Array
from periscope_export.graphs.graph import export_graph, module_runner
from periscope_export.graphs.precision import at
from periscope_export.models.kept_prefixes import keeping, prefixes_to_keep
from periscope_export.models.steps import Step
from periscope_export.models.weights import load_step
from periscope_export.published import open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.repository.writing import write_preparation
from periscope_runtime.asked import Asked
from periscope_runtime.collate import collate
from periscope_runtime.item import Item
from periscope_runtime.prepare import Preparer, Row
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_embedding

# Of states, which are as long as they are wide: sums in another order.
TOLERANCE = 2e-5

TEXTS = ["energy", "which month had the most visitors, and why", "a"]

# Two layers: each keeps keys and values of its own.
SIZES = Qwen3VLSizes(vision_layers=2, levels=(0,), layers=2)


class Both:
    """The language model twice, as it reads whole prompts and as it keeps their prefixes, and the vision encoder."""

    def __init__(self, folder: Path) -> None:
        checkpoint = make_qwen3_vl_embedding(folder / "checkpoint", SIZES, seed=5)
        retriever = open_retriever(str(checkpoint), "qwen3_vl_embedding")
        self.tokenizer = retriever.tokenizer
        self.prefixes = prefixes_to_keep(retriever.steps, retriever.recipe, retriever.tokenizer)
        written = write_preparation(folder / "r", "r", retriever.recipe, retriever.tokenizer, self.prefixes)
        self.preparer = Preparer(written["text"])
        steps = retriever.steps, keeping(retriever.steps, self.prefixes)
        self.vision, self.plain, self.keeping = (at(step, "fp32") for step in (*steps[0][:2], steps[1][1]))
        weights = retriever.checkpoint.weights
        self.modules = {id(step): load_step(step, weights) for step in (self.vision, self.plain, self.keeping)}

    def item(self, **content: Any) -> Row:
        return self.preparer.item(Item(**content), Asked())

    def tensors(self, rows: list[Row], prefixes: list[Array] | None) -> dict[str, Array]:
        tensors = dict(collate(rows, self.preparer.preparation.buckets, prefixes))
        if "patches" in tensors:
            return {**tensors, **self.run(self.vision, tensors)}
        return with_visual_tokens(self.plain, tensors)

    def run(self, step: Step, tensors: dict[str, Array]) -> dict[str, Array]:
        return module_runner(step, self.modules[id(step)])("", tensors)

    def pooled(self, step: Step, tensors: dict[str, Array]) -> Array:
        """The states that vectors are made of [B, H]."""
        states_BTH = self.run(step, tensors)["hidden_states"]
        return states_BTH[tensors["pool_mask"] > 0]

    def difference(self, rows: list[Row], mistake: Callable[[dict[str, Array]], None] = lambda _: None) -> float:
        """The largest between both models; a mistake is made in what the keeping one is given."""
        kept = self.tensors(rows, self.prefixes)
        mistake(kept)
        found = self.pooled(self.keeping, kept) - self.pooled(self.plain, self.tensors(rows, None))
        return float(np.abs(found).max())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("prefix"))


PAGES = [encode(draw_page(*size, seed)) for seed, size in enumerate([(300, 200), (90, 330)])]


@pytest.mark.parametrize("kind", ["texts", "pages", "videos"])
def test_states_are_those_of_the_whole_prompt(both: Both, kind: str) -> None:
    """Several rows of different lengths: padding takes part."""
    rows = {
        "texts": [both.item(text=text.encode()) for text in TEXTS],
        "pages": [both.item(images=[PAGES[0]]), both.item(images=[PAGES[1]], text=b"revenue")],
        "videos": [both.item(video=[PAGES[0]] * 3), both.item(video=PAGES[1:])],
    }[kind]
    assert both.tensors(rows, both.prefixes)["input_ids"].shape < both.tensors(rows, None)["input_ids"].shape
    assert both.difference(rows) < TOLERANCE


def test_a_prompt_that_begins_otherwise_comes_whole(both: Both) -> None:
    rows = [both.preparer.item(Item(text=b"energy"), Asked(instruction="Find it"))]
    assert both.tensors(rows, both.prefixes)["prefix_index"].shape == (1, 0)
    assert both.difference(rows) < TOLERANCE


def test_a_task_has_its_own_prefix(both: Both) -> None:
    rows = [both.preparer.item(Item(text=text.encode()), Asked(task="retrieval")) for text in TEXTS]
    first = len(both.prefixes[0])
    assert both.tensors(rows, both.prefixes)["prefix_index"][0, 0] == first
    assert both.difference(rows) < TOLERANCE


def one_token_again_and_again(tensors: dict[str, Array]) -> None:
    tensors["prefix_index"] = np.zeros_like(tensors["prefix_index"])


def other_positions(tensors: dict[str, Array]) -> None:
    tensors["position_ids"] = tensors["position_ids"] - tensors["position_ids"].max(axis=2, keepdims=True)


def prefix_unseen(tensors: dict[str, Array]) -> None:
    tensors["prefix_index"] = tensors["prefix_index"][:, :0]


def prefix_of_a_task(tensors: dict[str, Array]) -> None:
    tensors["prefix_index"] = tensors["prefix_index"] + tensors["prefix_index"].shape[1]


@pytest.mark.parametrize("mistake", [one_token_again_and_again, prefix_of_a_task, other_positions, prefix_unseen])
def test_typical_mistakes_are_far_outside_the_tolerance(
    both: Both, mistake: Callable[[dict[str, Array]], None]
) -> None:
    assert both.difference([both.item(text=b"energy")], mistake) > 100 * TOLERANCE


def test_a_graph_gives_what_its_tower_gives(both: Both, tmp_path: Path) -> None:
    """Written for pages with the prefix kept, run on texts and on a whole prompt as well."""
    step, module = both.keeping, both.modules[id(both.keeping)]

    def wanted(rows: list[Row]) -> dict[str, Array]:
        tensors = both.tensors(rows, both.prefixes)
        return {spec.name: tensors[spec.name].astype(spec.dtype) for spec in step.inputs}

    graph = export_graph(step, module, wanted([both.item(images=[page]) for page in PAGES]), tmp_path)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    whole = both.preparer.item(Item(text=b"energy"), Asked(instruction="Find it"))
    for rows in ([both.item(text=text.encode()) for text in TEXTS], [whole], [both.item(images=[PAGES[1]])]):
        inputs = wanted(rows)
        (found,) = session.run(None, inputs)
        right = both.run(step, inputs)["hidden_states"]
        np.testing.assert_allclose(found, right, rtol=0, atol=TOLERANCE)


def test_preparation_leaves_out_what_the_graph_keeps(both: Both) -> None:
    assert both.preparer.kept is not None
    assert [ids_J.tolist() for ids_J in both.preparer.kept] == [ids_J.tolist() for ids_J in both.prefixes]


@pytest.mark.parametrize("recipe", ["colqwen2", "colqwen2_dense", "colpali"])
def test_where_states_of_the_prefix_are_wanted_nothing_is_kept(both: Both, recipe: str) -> None:
    """A vector for each token, the mean of all tokens, attention in both directions."""
    assert prefixes_to_keep([both.plain], load_recipe(recipe), both.tokenizer) == []
    assert keeping([both.plain], []) == (both.plain,)
    assert keeping([both.vision], both.prefixes) == (both.vision,)
