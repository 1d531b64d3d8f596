"""Heads beside the late one: against loops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from periscope_export.checkpoint.reading import open_checkpoint
from periscope_export.errors import ExportError
from periscope_export.models.direction import DIRECTION, with_direction
from periscope_export.models.heads import MatryoshkaHead, RerankHead
from periscope_export.recipes.schema import RerankOutput
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
    tokenizer = checkpoint / "tokenizer.json"
    found = with_direction(opened, RerankOutput(positive="\u0120yes", negative="\u0120no"), "head.weight", tokenizer)
    assert DIRECTION in set(found.weights.keys())
    assert found.weights.info(DIRECTION).shape == (8,)
    table = opened.weights.read("head.weight").to(torch.float64)
    vocabulary = make_tokenizer(["yes", "no"])
    wanted = table[vocabulary.token_to_id("\u0120yes")] - table[vocabulary.token_to_id("\u0120no")]
    np.testing.assert_allclose(found.weights.read(DIRECTION).numpy(), wanted.numpy(), rtol=0, atol=1e-7)


def test_what_a_direction_needs(checkpoint: Path) -> None:
    opened, tokenizer = open_checkpoint(checkpoint, canonical=str), checkpoint / "tokenizer.json"
    with pytest.raises(ExportError, match="no token 'oui'"):
        with_direction(opened, RerankOutput(positive="oui", negative="\u0120no"), "head.weight", tokenizer)
    for head in (None, "lm_head.weight"):
        with pytest.raises(ExportError, match="no language head"):
            with_direction(opened, RerankOutput(positive="\u0120yes", negative="\u0120no"), head, tokenizer)
