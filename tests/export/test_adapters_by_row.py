"""Adapters of several tasks in one graph: each row has the vectors that PEFT gives it with its own.

B rows, T tokens, H width of a state, K dimensions of a late vector, N adapters, R their ranks together, I in, O out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from periscope_export.engines.runners import tower_runner
from periscope_export.exporter import _preparer
from periscope_export.fidelity import fingerprint
from periscope_export.fidelity.closeness import measure
from periscope_export.fidelity.record import Golden, run_step
from periscope_export.fidelity.sample_inputs import sample_inputs
from periscope_export.graphs.graph import export_graph, module_runner
from periscope_export.graphs.precision import at
from periscope_export.graphs.quantise import quantise
from periscope_export.models.towers import Towers
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings
from periscope_export.repository.writing import write_preparation
from periscope_testing.jina_embeddings_v4 import TASKS, JinaEmbeddingsV4Reference, make_jina_embeddings_v4
from periscope_testing.qwen2_vl import Qwen2VLSizes

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft")

RECIPE = "jina_embeddings_v4"
SIZES = Qwen2VLSizes(vision_layers=1, language_layers=2, mlp=64)
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_jina_embeddings_v4(tmp_path_factory.mktemp("made") / "checkpoint", SIZES, seed=7)


@pytest.fixture(scope="module")
def retriever(checkpoint: Path) -> PublishedRetriever:
    return open_retriever(str(checkpoint), RECIPE)


@pytest.fixture(scope="module")
def towers(retriever: PublishedRetriever) -> Towers:
    return Towers(retriever.steps, retriever.checkpoint.weights)


def samples(retriever: PublishedRetriever, folder: Path) -> Golden:
    """Tensors that an export is measured on."""
    written = write_preparation(folder, "r", retriever.recipe, retriever.tokenizer)
    return sample_inputs(_preparer(next(iter(written.values()))), retriever.steps, retriever.width)


@pytest.fixture(scope="module")
def golden(retriever: PublishedRetriever, towers: Towers, tmp_path_factory: pytest.TempPathFactory) -> Golden:
    found = samples(retriever, tmp_path_factory.mktemp("prepared"))
    for name, step in towers.steps.items():
        for path in step.paths:
            run_step(name, path.name, found, module_runner(step, towers[name]))
    return found


def states_and_late(towers: Towers, ids_BT: Tensor, adapters: list[int]) -> tuple[Tensor, Tensor]:
    """States [B, T, H] and late vectors [B, T, K] of texts without padding, an adapter each."""
    rows, tokens = ids_BT.shape
    index_B1 = torch.tensor(adapters, dtype=torch.int32).unsqueeze(1)
    positions = torch.arange(tokens, dtype=torch.int32).expand(rows, 3, -1)
    none_BVW = torch.zeros(rows, 0, SIZES.width)
    with torch.inference_mode():
        states_BTH = towers["language_model"](ids_BT.int(), positions, none_BVW, adapter_index=index_B1)
        late_BTK = towers["late_head"](states_BTH, torch.ones_like(ids_BT), adapter_index=index_B1)
    return states_BTH, late_BTK


def test_rows_of_several_tasks_are_those_of_peft(checkpoint: Path, towers: Towers) -> None:
    """In one batch, as PEFT chooses by row, and as it activates one of them."""
    reference = JinaEmbeddingsV4Reference(checkpoint)
    model, live = reference.model, reference.live.eval()
    ids_BT = torch.randint(3, 900, (4, 9), generator=torch.Generator().manual_seed(2))
    adapters = [2, 0, 1, 0]

    def published(ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        states_BTH = model.model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).last_hidden_state
        return states_BTH, nn.functional.normalize(model.multi_vector_projector(states_BTH), dim=-1)

    found = states_and_late(towers, ids_BT, adapters)
    with torch.inference_mode():
        with live._enable_peft_forward_hooks(adapter_names=[TASKS[one] for one in adapters]):
            together = published(ids_BT)
        for ours, theirs in zip(found, together, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
        for row, adapter in enumerate(adapters):
            live.set_adapter(TASKS[adapter])
            alone = states_and_late(towers, ids_BT[row : row + 1], [adapter])
            for ours, theirs, of_batch in zip(alone, published(ids_BT[row : row + 1]), found, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
                torch.testing.assert_close(ours, of_batch[row : row + 1], rtol=0, atol=TOLERANCE)
    # Mistakes are seen: rows that take another's adapter, and late vectors projected with another's.
    for other in ([0, 2, 0, 1], [2, 0, 1, 1]):
        wrong_BTH, wrong_BTK = states_and_late(towers, ids_BT, other)
        changed = [row for row in range(4) if other[row] != adapters[row]]
        assert (wrong_BTH - found[0])[changed].abs().amax((1, 2)).min() > 1000 * TOLERANCE
        assert (wrong_BTK - found[1])[changed].abs().amax((1, 2)).min() > 1000 * TOLERANCE


def test_attention_to_all_tokens(checkpoint: Path) -> None:
    """A mask stands before the adapters then, and each is taken for what it is."""
    seen = open_retriever(str(checkpoint), RECIPE, settings={"attention": "bidirectional"})
    step = next(step for step in seen.steps if step.name == "language_model")
    assert [spec.name for spec in step.inputs][-2:] == ["attention_mask", "adapter_index"]
    stacked = Towers([step], seen.checkpoint.weights)[step.name]
    tensors = {spec.name: np.ones([1, 3, 4][: len(spec.axes)], np.int32) for spec in step.inputs}
    tensors |= {"position_ids": np.ones((2, 3, 4), np.int32), "visual_tokens": np.zeros((2, 0, SIZES.width), "f")}
    tensors |= {name: np.array([[5, 6, 7, 8]] * 2, np.int32) for name in ("input_ids", "attention_mask")}
    tensors["adapter_index"] = np.array([[0], [2]], np.int32)
    states_BTH = module_runner(at(step, "fp32"), stacked)("", tensors)["hidden_states"]
    merged = open_retriever(str(checkpoint), RECIPE, settings={"attention": "bidirectional", "adapters.task": "code"})
    plain = Towers(merged.steps, merged.checkpoint.weights)["language_model"]
    arguments = [torch.from_numpy(tensors[name]) for name in list(tensors)[:4]]
    with torch.inference_mode():
        np.testing.assert_allclose(states_BTH[1:], plain(*arguments)[1:].numpy(), rtol=0, atol=TOLERANCE)
    assert abs(states_BTH[0] - states_BTH[1]).max() > 0.01


def test_merged_and_stacked_are_two_fingerprints(checkpoint: Path, retriever: PublishedRetriever) -> None:
    def weights_and_rest(one: PublishedRetriever) -> tuple[bytes, str]:
        begun = fingerprint.begin(one.recipe, "fp32", one.steps, one.tokenizer)
        return Towers(one.steps, one.checkpoint.weights).digest, begun.hexdigest()

    stacked, merged = retriever, open_retriever(str(checkpoint), RECIPE, settings={"adapters.task": "retrieval"})
    turned = {name: {"adapter": name} for name in reversed(TASKS)}
    other = open_retriever(str(checkpoint), RECIPE, settings={"preparation.tasks": turned})
    assert [len({weights_and_rest(one)[part] for one in (stacked, merged)}) for part in (0, 1)] == [2, 2]
    # The recipe's own tasks come first in a mapping that is merged with theirs.
    assert other.recipe.preparation.stacked == TASKS
    (constant,) = [one for step in stacked.steps for one in step.constants if getattr(one, "adapters", None) == 3][:1]
    assert (constant.rank, len(constant.layers)) == (SIZES.rank, 7 * SIZES.language_layers)
    assert not any(hasattr(one, "rank") for step in merged.steps for one in step.constants)
    # Steps that no adapter reaches are as they were, and all have their sizes.
    assert stacked.steps[0].inputs == merged.steps[0].inputs
    assert {len(step.constants) for step in (stacked.steps[1],)} == {len(merged.steps[1].constants) + 1}


def test_the_samples_run_every_adapter(golden: Golden, towers: Towers) -> None:
    """So one that is broken is found, whichever it is, on every path and in every graph that has it."""
    for tensors in (golden["text"], golden["image"]):
        assert tensors["adapter_index"].tolist() == [[0], [1], [2], [0]]
    for name in ("language_model", "late_head"):
        for adapter in range(3):
            layer = next(one for path, one in towers[name].named_modules() if path.endswith("adapters.up"))
            (columns_RO,) = [layer.weight[adapter * SIZES.rank : (adapter + 1) * SIZES.rank]]
            with torch.inference_mode():
                columns_RO.mul_(-1)
                found = measure(golden, towers.order, tower_runner(towers, "fp32"))
                columns_RO.mul_(-1)
            assert found["steps"][name]["max_abs_error"] > 1e-3
            furthest = found["vectors"]["furthest"][0]
            assert golden[furthest["path"]]["adapter_index"][furthest["row"]] == adapter


def test_more_adapters_than_samples(tmp_path: Path, retriever: PublishedRetriever) -> None:
    """By role too, as jina-embeddings-v3 has them: each has a row, in a role that has it."""
    by_role = {"query": "retrieval.query", "document": "retrieval.passage"}
    tasks: dict[str, Any] = {"retrieval": {"adapter": by_role, "prompts": {}}}
    tasks |= {name: {"adapter": name} for name in ("separation", "classification", "matching")}
    settings = {"preparation.tasks": {**dict.fromkeys(TASKS), **tasks}, "preparation.task": "separation"}
    recipe = with_settings(load_recipe(RECIPE), settings)
    assert len(recipe.preparation.stacked) == 5
    written = write_preparation(tmp_path, "r", recipe, retriever.tokenizer)
    found = sample_inputs(_preparer(next(iter(written.values()))), retriever.steps, retriever.width)
    for tensors in found.values():
        assert sorted(tensors["adapter_index"].flatten()) == [0, 1, 2, 3, 4]
        assert len(tensors["input_ids"]) == 5
    queries, passages, others = found["text"]["input_ids"][:3, :2]
    assert (queries == others).all()
    assert (queries != passages).any()  # "Query: ", "Passage: "


def test_a_graph_chooses_by_row_and_keeps_adapters_when_quantised(
    towers: Towers, golden: Golden, tmp_path: Path
) -> None:
    """In ONNX Runtime, whatever comes first in a batch."""
    step = at(towers.steps["late_head"], "fp32")
    tensors = {spec.name: golden["text"][spec.name] for spec in step.inputs}
    graph = export_graph(step, towers["late_head"], tensors, tmp_path)
    run = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"]).run
    np.testing.assert_allclose(run(None, tensors)[0], golden["text"]["late"], rtol=0, atol=1e-6)
    for row in range(4):
        alone = {name: tensor[row : row + 1] for name, tensor in tensors.items()}
        np.testing.assert_allclose(run(None, alone)[0], golden["text"]["late"][row : row + 1], rtol=0, atol=1e-6)
    found = quantise(graph, tmp_path / "quantised.onnx", "int8", [tensors])
    assert (found.weights, found.kept) == (("projection.weight",), ())
