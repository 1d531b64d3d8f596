"""Heads beside the late one: against loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from periscope_export.checkpoint.reading import Checkpoint, open_checkpoint
from periscope_export.checkpoint.tokens import read_tokenizer
from periscope_export.errors import ExportError
from periscope_export.models.direction import DIRECTION, with_direction
from periscope_export.models.heads import LateHead, MatryoshkaHead, RerankHead
from periscope_export.models.outputs import head_steps, with_head_names
from periscope_export.models.weights import check_weights, load_step
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings
from periscope_export.recipes.schema import Recipe
from periscope_testing.tokenizers.qwen2 import make_tokenizer

STATES = torch.randn((3, 5, 8), generator=torch.Generator().manual_seed(1))
LAST = torch.tensor([[0, 0, 0, 0, 1], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]], dtype=torch.int32)


def test_the_first_columns_are_normalised_again() -> None:
    columns = torch.arange(3, dtype=torch.int32).repeat(3, 1)
    found = MatryoshkaHead()(STATES, LAST, columns)
    for row, token in enumerate((4, 1, 2)):
        kept = STATES[row, token, :3].tolist()
        length = math.sqrt(sum(value**2 for value in kept))
        assert found[row].tolist() == pytest.approx([value / length for value in kept], abs=1e-6)


def test_a_score_is_the_probability_of_one_token_over_the_other() -> None:
    head = RerankHead(8)
    head.direction = torch.nn.Parameter(torch.linspace(-1, 1, 8), requires_grad=False)
    mask = LAST.clone()
    mask[1] = 0
    found = head(STATES, mask)
    assert found.shape == (3, 1)
    for row, token in ((0, 4), (2, 2)):
        logit = sum(
            float(state) * float(weight) for state, weight in zip(STATES[row, token], head.direction, strict=True)
        )
        assert float(found[row]) == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-6)
    # A row that stands for a candidate that could not be prepared.
    assert math.isnan(found[1])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tokenizer = make_tokenizer(["yes", "no"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = tokenizer.get_vocab_size()
    table = torch.randn((rows, 8), generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    save_file({"head.weight": table}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({}))
    return tmp_path


def test_the_direction_is_a_difference_in_float32(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint, canonical=str)
    tokenizer = read_tokenizer(checkpoint / "tokenizer.json")
    found = with_direction(opened, ("\u0120yes", "\u0120no"), "head.weight", tokenizer)
    assert DIRECTION in set(found.weights.keys())
    assert found.weights.info(DIRECTION).shape == (8,)
    table = opened.weights.read("head.weight").to(torch.float64)
    vocabulary = make_tokenizer(["yes", "no"])
    wanted = table[vocabulary.token_to_id("\u0120yes")] - table[vocabulary.token_to_id("\u0120no")]
    np.testing.assert_allclose(found.weights.read(DIRECTION).numpy(), wanted.numpy(), rtol=0, atol=1e-7)


def test_what_a_direction_needs(checkpoint: Path) -> None:
    opened, tokenizer = open_checkpoint(checkpoint, canonical=str), read_tokenizer(checkpoint / "tokenizer.json")
    with pytest.raises(ExportError, match="no token 'oui'"):
        with_direction(opened, ("oui", "\u0120no"), "head.weight", tokenizer)
    for head in (None, "lm_head.weight"):
        with pytest.raises(ExportError, match="no language head"):
            with_direction(opened, ("\u0120yes", "\u0120no"), head, tokenizer)


def test_late_vectors_without_a_projection_are_whole_states() -> None:
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.int32)
    found = LateHead(8, None)(STATES, mask)
    assert found.shape == STATES.shape
    for row, token in np.ndindex(3, 5):
        state = STATES[row, token].tolist()
        length = math.sqrt(sum(value**2 for value in state))
        wanted = [value / length if mask[row, token] else 0 for value in state]
        assert found[row, token].tolist() == pytest.approx(wanted, abs=1e-6)


# jina-reranker-m0: names, activation and constant as published.
SCORE: list[dict[str, Any]] = [
    {"names": ["score.0", "score.dense"], "activation": "relu"},
    {"names": ["score.2", "score.out_proj"]},
]


def mlp(**changes: object) -> Recipe:
    form = {"positive": None, "negative": None, "layers": SCORE, "offset": -2.65, **changes}
    return with_settings(load_recipe("qwen3_vl_reranker"), {"outputs.rerank": form})


def stored(folder: Path, weights: dict[str, torch.Tensor], recipe: Recipe) -> Checkpoint:
    folder.mkdir()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return open_checkpoint(folder, canonical=with_head_names(recipe.outputs, str))


def score_weights(*names: str) -> dict[str, torch.Tensor]:
    """Contents of torch's own layers: the slow twin."""
    torch.manual_seed(3)
    layers = {names[0]: torch.nn.Linear(8, 6), names[1]: torch.nn.Linear(6, 1)}
    return {f"{name}.{kind}": tensor for name, layer in layers.items() for kind, tensor in layer.state_dict().items()}


@pytest.mark.parametrize("names", [("score.0", "score.2"), ("score.dense", "score.out_proj")])
def test_a_score_of_layers_of_the_checkpoint(names: tuple[str, str], tmp_path: Path) -> None:
    """Against torch's layers in float64, under both sets of published names."""
    recipe, weights = mlp(), score_weights(*names)
    checkpoint = stored(tmp_path / "made", weights, recipe)
    (step,) = head_steps(checkpoint.weights, recipe, 8)
    check_weights([step], checkpoint.weights, "")
    head, mask = load_step(step, checkpoint.weights), LAST.clone()
    mask[1] = 0
    found = head(STATES, mask)
    assert (step.name, step.outputs[0].axes, found.shape) == ("rerank_head", ("B", 1), (3, 1))
    double = {name: tensor.to(torch.float64) for name, tensor in weights.items()}
    for row, token in ((0, 4), (2, 2)):
        hidden = double[f"{names[0]}.weight"] @ STATES[row, token].double() + double[f"{names[0]}.bias"]
        raw = double[f"{names[1]}.weight"] @ hidden.clamp(min=0) + double[f"{names[1]}.bias"]
        assert float(found[row]) == pytest.approx(1 / (1 + math.exp(-(float(raw) - 2.65))), abs=1e-6)
    assert math.isnan(found[1])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("missing", "there is no score.2.weight or score.out_proj.weight, so nothing scores pairs here"),
        ("wide", r"score.2.weight is \[2, 6\], and the score needs \[1, 6\]"),
        ("other", r"score.0.weight is \[6, 7\], and the score needs \[..., 8\]"),
    ],
)
def test_layers_that_make_no_score(change: str, reason: str, tmp_path: Path) -> None:
    recipe, weights = mlp(), score_weights("score.0", "score.2")
    if change == "missing":
        del weights["score.2.weight"]
    else:
        weights |= {"wide": {"score.2.weight": torch.ones(2, 6)}, "other": {"score.0.weight": torch.ones(6, 7)}}[change]
    with pytest.raises(ExportError, match=reason):
        head_steps(stored(tmp_path / "made", weights, recipe).weights, recipe, 8)


def test_a_bias_that_the_recipe_does_not_know_is_left_over(tmp_path: Path) -> None:
    recipe = mlp(layers=[{**SCORE[0], "bias": False}, SCORE[1]])
    checkpoint = stored(tmp_path / "made", score_weights("score.0", "score.2"), recipe)
    with pytest.raises(ExportError, match=r"1 unused: score\.0\.bias"):
        check_weights(head_steps(checkpoint.weights, recipe, 8), checkpoint.weights, "")


def test_the_language_head_may_have_a_constant_too(checkpoint: Path) -> None:
    recipe = with_settings(load_recipe("qwen3_vl_reranker"), {"outputs.rerank.offset": 1.5})
    (step,) = head_steps(open_checkpoint(checkpoint, canonical=str).weights, recipe, 8)
    head, plain = step.build(), RerankHead(8)
    direction = torch.nn.Parameter(torch.linspace(-1, 1, 8), requires_grad=False)
    head.direction = plain.direction = direction
    torch.testing.assert_close(torch.logit(head(STATES, LAST)), torch.logit(plain(STATES, LAST)) + 1.5)


@pytest.mark.parametrize(
    "form",
    [
        {"positive": "yes"},
        {"positive": "yes", "layers": SCORE},
        {"positive": "a", "negative": "b", "layers": SCORE},
        {},
    ],
)
def test_a_score_has_one_form(form: dict[str, object]) -> None:
    with pytest.raises(
        ExportError, match=r"outputs\.rerank: a score is made of two tokens, positive and negative, or of"
    ):
        mlp(**{"positive": None, "negative": None, "layers": [], **form})


def test_a_projection_that_the_recipe_does_not_name_is_left_over(tmp_path: Path) -> None:
    """Whole states of a checkpoint that has a projection would be other vectors."""
    recipe = with_settings(load_recipe("colqwen2"), {"outputs.late.projection": None})
    checkpoint = stored(tmp_path / "made", {"custom_text_proj.weight": torch.ones(4, 8)}, recipe)
    late, maxsim = head_steps(checkpoint.weights, recipe, 8)
    assert (late.outputs[0].axes[-1], maxsim.inputs[0].axes[-1], late.prefix) == (8, 8, None)
    with pytest.raises(ExportError, match=r"1 unused: custom_text_proj\.weight"):
        check_weights((late, maxsim), checkpoint.weights, "")
