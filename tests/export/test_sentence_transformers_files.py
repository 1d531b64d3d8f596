"""Files of sentence-transformers beside the weights are served as they say, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from periscope_export.checkpoint.hub import _needed
from periscope_export.errors import ExportError
from periscope_export.fidelity.record import graph_runner
from periscope_export.fidelity.sample_inputs import sample_inputs
from periscope_export.graphs.graph import example, export_graph, module_runner
from periscope_export.graphs.precision import at
from periscope_export.models.weights import load_step
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.repository.writing import Identity, write_configs, write_preparation
from periscope_runtime.prepare import Preparer
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes, make_qwen3_vl_embedding
from periscope_testing.sentence_transformers_files import LAST, MEAN, NORMALIZE, SOFTMAX, Module, dense, linear, write

WIDTH = 192


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sizes = Qwen3VLSizes(vision_layers=1, levels=(0,), layers=1, shards=1)
    return make_qwen3_vl_embedding(tmp_path / "checkpoint", sizes, seed=4)


def opened(folder: Path, **settings: Any) -> PublishedRetriever:
    return open_retriever(str(folder), "qwen3_vl_embedding", settings=settings)


def refusal(folder: Path, **settings: Any) -> str:
    with pytest.raises(ExportError) as stopped:
        opened(folder, **settings)
    return str(stopped.value)


def mean(states_BTH: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return torch.stack([states[:length].mean(0) for states, length in zip(states_BTH, lengths, strict=True)])


def last(states_BTH: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    return torch.stack([states[length - 1] for states, length in zip(states_BTH, lengths, strict=True)])


Vector = Callable[[Path, torch.Tensor, list[int]], torch.Tensor]
SERVED: dict[str, tuple[list[Module], int, Vector]] = {
    "mean": ([MEAN, NORMALIZE], WIDTH, lambda folder, states, lengths: mean(states, lengths)),
    "last": ([LAST, NORMALIZE], WIDTH, lambda folder, states, lengths: last(states, lengths)),
    "a dense layer": (
        [LAST, dense(WIDTH, 96), NORMALIZE],
        96,
        lambda folder, states, lengths: linear(folder, "2_Dense", last(states, lengths)),
    ),
    "two, with activations": (
        [MEAN, dense(WIDTH, 80, None), dense(80, 128, "torch.nn.modules.activation.GELU", bias=False)],
        128,
        lambda folder, states, lengths: torch.nn.functional.gelu(
            linear(folder, "3_Dense", linear(folder, "2_Dense", mean(states, lengths)).tanh())
        ),
    ),
    "narrower than any vector that may be asked for": (
        [LAST, ("Dropout", {"dropout": 0.1}), dense(WIDTH, 48, "torch.nn.modules.activation.ReLU"), NORMALIZE],
        48,
        lambda folder, states, lengths: linear(folder, "3_Dense", last(states, lengths)).relu(),
    ),
}


@pytest.mark.parametrize(("modules", "width", "vector"), SERVED.values(), ids=SERVED.keys())
def test_vectors_are_made_as_the_files_say(
    folder: Path, tmp_path: Path, modules: list[Module], width: int, vector: Vector
) -> None:
    """In torch and as a graph; whole, and of the first dimensions."""
    retriever = opened(write(folder, *modules))
    preparer = Preparer(write_preparation(tmp_path / "r", "r", retriever.recipe, retriever.tokenizer)["text"])
    golden = sample_inputs(preparer, retriever.steps, retriever.width)["text"]
    steps = {step.name: step for step in retriever.steps}
    language_model, head = steps["language_model"], steps["dense_head"]
    golden |= module_runner(language_model, load_step(language_model, retriever.checkpoint.weights))("", golden)
    kept = golden["pool_mask"]
    lengths = [int(row.nonzero()[0].max()) + 1 for row in kept]
    assert (kept.sum(1) > 1).all() == (modules[0] is MEAN)
    wanted_BD = vector(folder, torch.from_numpy(golden["hidden_states"]), lengths)
    module = load_step(head, retriever.checkpoint.weights)
    export_graph(
        head, module, example(head, {path.name: golden for path in head.paths}), tmp_path / "r" / "r_dense_head" / "1"
    )
    smallest = min(64, width)
    for dimensions in (width, smallest):
        columns: NDArray[np.int32] = np.tile(np.arange(dimensions, dtype=np.int32), (len(kept), 1))
        wanted = torch.nn.functional.normalize(wanted_BD[:, :dimensions], dim=-1).numpy()
        for run in (module_runner(head, module), graph_runner(tmp_path / "r", "r")):
            found = run("dense_head", {**golden, "dense_columns": columns})["dense"]
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    # The numbers that clients are told.
    identity = Identity("r", "qwen3_vl_embedding", "f", "fp32", "onnxruntime")
    names = [step.name for step in retriever.steps]
    write_configs(
        tmp_path / "r",
        identity,
        retriever.recipe,
        [at(step, "fp32") for step in retriever.steps],
        {name: [] for name in names},
        dict.fromkeys(names, "onnxruntime"),
        retriever.width,
    )
    config = (tmp_path / "r" / "r_embed_text" / "config.pbtxt").read_text().split()
    for name, value in (("dense_width", width), ("dense_smallest", smallest)):
        place = config.index(f'"{name}"')
        assert f'"{value}"' in config[place : place + 6]


def test_the_plain_layout_stays_as_it_is(folder: Path) -> None:
    plain = opened(folder)
    assert plain.changes == []
    said = opened(write(folder, LAST, NORMALIZE, similarity_fn_name="cosine", prompts={"query": "", "document": ""}))
    assert (said.changes, said.recipe, said.width) == ([], plain.recipe, WIDTH)
    # A class of the checkpoint's own that pools by itself, as that of jina-clip does.
    own = opened(write(folder, first="custom_st.Transformer"))
    assert own.recipe == plain.recipe


REFUSED: dict[str, tuple[list[Module], dict[str, Any], str]] = {
    "cls": ([("Pooling", {"pooling_mode": "cls"}), NORMALIZE], {}, "1_Pooling pools by cls, not by mean or lasttoken"),
    "max": ([("Pooling", {"pooling_mode_max_tokens": True}), NORMALIZE], {}, "1_Pooling pools by max"),
    "weighted": ([("Pooling", {"pooling_mode_weightedmean_tokens": True})], {}, "pools by weightedmean"),
    "two modes": ([("Pooling", {"pooling_mode": ["mean", "cls"]})], {}, "pools by mean and cls"),
    "no prompt": ([("Pooling", {"pooling_mode": "mean", "include_prompt": False})], {}, "leaves the prompt out"),
    "activation": (
        [LAST, dense(WIDTH, 8, SOFTMAX)],
        {},
        "2_Dense: activation_function is",
    ),
    "own activation": (
        [LAST, dense(WIDTH, 8, "mine.Tanh")],
        {},
        "activation_function is mine.Tanh, not one of Identity",
    ),
    "no mode": ([("Pooling", {"pooling_mode": 3})], {}, "1_Pooling pools by 3, not by mean or lasttoken"),
    "residual": (
        [LAST, dense(WIDTH, WIDTH, use_residual=True)],
        {},
        "2_Dense: it adds what it is given (use_residual)",
    ),
    "tokens": (
        [dense(WIDTH, 8, module_input_name="token_embeddings"), LAST],
        {},
        "1_Dense: it maps token_embeddings to token_embeddings, not the vector itself",
    ),
    "width": ([LAST, dense(512, 8)], {}, "2_Dense: in_features is 512, and what comes to it is 192 wide"),
    "width of the second": ([LAST, dense(WIDTH, 64), dense(WIDTH, 8)], {}, "3_Dense: in_features is 192, and what"),
    "unknown": ([LAST, ("LayerNorm", {"dimension": WIDTH})], {}, "2_LayerNorm is a LayerNorm"),
    "order": (
        [LAST, NORMALIZE, dense(WIDTH, 8)],
        {},
        "its order is Pooling, Normalize, Dense, not Pooling, Dense, Normalize",
    ),
    "two poolings": ([LAST, MEAN], {}, "its order is Pooling, Pooling"),
    "lengths": (
        [LAST],
        {"similarity_fn_name": "dot"},
        "there is no Normalize, vectors are served with length 1, and dot",
    ),
}


@pytest.mark.parametrize(("modules", "config", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_served_is_refused(
    folder: Path, modules: list[Module], config: dict[str, Any], reason: str
) -> None:
    text = refusal(write(folder, *modules, **config))
    assert text.startswith("modules.json: ")
    assert reason in text
    assert "--set preparation.pooling" in text


def test_a_first_module_that_is_no_transformer_or_lies_elsewhere(folder: Path) -> None:
    assert "it begins with Router, not with a Transformer" in refusal(write(folder, LAST, first="a.Router"))
    entries = json.loads((folder / "modules.json").read_text())
    for path, reason in (("0_Transformer", "the model lies in 0_Transformer"), ("../x", "'../x' is no folder")):
        (folder / "modules.json").write_text(json.dumps([{**entries[0], "type": "a.Transformer", "path": path}]))
        assert reason in refusal(folder)
    (folder / "modules.json").write_text("{}")
    assert "modules.json holds no list of JSON objects" in refusal(folder)


def test_users_decide_over_pooling_and_layers(folder: Path) -> None:
    write(folder, ("Pooling", {"pooling_mode": "cls"}), dense(WIDTH, 8, SOFTMAX))
    settings = {"preparation.pooling": "mean", "outputs.dense.layers": []}
    found = opened(folder, **settings)
    assert (found.recipe.preparation.pooling, found.width) == ("mean", WIDTH)
    layer = {"path": "2_Dense", "inputs": WIDTH, "outputs": 8}
    narrow = {"preparation.pooling": "mean", "outputs.dense.dimensions": 8}
    assert opened(folder, **narrow, **{"outputs.dense.layers": [layer]}).width == 8
    for layers, reason in (
        ([layer], "outputs.dense.dimensions is 64, the layers give 8"),
        ([{**layer, "outputs": 64}, layer], "2_Dense takes 192 dimensions, 2_Dense gives 64"),
        ([{**layer, "inputs": 512, "outputs": 64}], "2_Dense takes 512 dimensions, and the states have 192"),
        ([{**layer, "path": "9_Dense", "outputs": 64}], "there is no 9_Dense/config.json"),
    ):
        assert reason in refusal(folder, **{"preparation.pooling": "mean", "outputs.dense.layers": layers})


def test_a_dense_layer_without_its_own_weights(folder: Path) -> None:
    write(folder, LAST, dense(WIDTH, 8, bias=False), NORMALIZE)
    config = folder / "2_Dense" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "bias": True}))
    assert "2_Dense holds linear.weight, and its config.json describes linear.bias, linear.weight" in refusal(folder)
    config.write_text(json.dumps({**json.loads(config.read_text()), "bias": False, "out_features": 9}))
    assert "2_Dense/linear.weight is [8, 192], the model needs [9, 192]" in refusal(folder)
    (folder / "2_Dense" / "model.safetensors").unlink()
    assert "holds no weights" in refusal(folder)


def test_lengths_that_no_cosine_depends_on_are_said(folder: Path) -> None:
    notes = opened(write(folder, LAST)).changes
    assert notes == ["modules.json has no Normalize; vectors are served with length 1, which changes no cosine"]


def test_prompts_are_instructions_where_a_recipe_has_them(folder: Path) -> None:
    prompts = {"query": "Find the page.", "document": "", "Code": "Find code"}
    preparation = opened(write(folder, LAST, NORMALIZE, prompts=prompts, default_prompt_name="Code")).recipe.preparation
    assert preparation.instruction is not None
    assert preparation.instruction.default == "Find code"
    assert {name: task.instruction for name, task in preparation.tasks.items() if name in prompts} == {
        "query": "Find the page.",
        "Code": "Find code",
    }


@pytest.mark.parametrize("prompts", [["query"], {"query": 3}])
def test_prompts_that_are_no_texts_are_refused(folder: Path, prompts: Any) -> None:
    text = refusal(write(folder, LAST, NORMALIZE, prompts=prompts))
    assert text.startswith("config_sentence_transformers.json: prompts are not texts by their names.")


def test_prompts_stand_before_the_text_where_a_recipe_has_no_instructions(tmp_path: Path) -> None:
    folder = make_colqwen2(tmp_path / "c", Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64), adapter=None)
    plain = open_retriever(str(folder), "colqwen2_dense")
    template = plain.recipe.preparation.prompts["query"]["text"]
    for prompts, wanted in (
        ({"query": "Query: "}, template),
        ({"query": "find: "}, template.replace("{text}", "find: {text}")),
        ({"other": "find: "}, template.replace("{text}", "find: {text}")),
        ({"unasked": "find: "}, template),
    ):
        write(folder, MEAN, NORMALIZE, prompts=prompts, default_prompt_name="other" if "other" in prompts else None)
        found = open_retriever(str(folder), "colqwen2_dense")
        assert found.recipe.preparation.prompts["query"]["text"] == wanted
        assert ("the prompt 'unasked' is of no role, and is not served" in str(found.changes)) == ("unasked" in prompts)
    # A recipe without a dense output has nothing to do with it.
    write(folder, ("Pooling", {"pooling_mode": "cls"}))
    assert open_retriever(str(folder), "colqwen2").recipe.outputs.dense is None


def test_what_is_fetched_of_a_repository() -> None:
    weights = ["model.safetensors", "2_Dense/model.safetensors", "3_Dense/pytorch_model.bin"]
    others = [
        "onnx/model.safetensors",
        "pytorch_model.bin",
        "2_Dense/pytorch_model.bin",
        "original/2_Dense/model.safetensors",
    ]
    small = ["modules.json", "2_Dense/config.json"]
    assert sorted(_needed([*weights, *others, *small])) == sorted([*weights, *small])
