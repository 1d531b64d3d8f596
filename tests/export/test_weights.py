"""A weight that is missing, left over or of another shape stops the export, with the whole list."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer

from periscope_export.errors import ExportError
from periscope_export.models.weights import load_step
from periscope_export.published import open_retriever
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes

Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_colqwen2(tmp_path / "checkpoint", Qwen2VLSizes(vision_layers=1, language_layers=1), adapter=None)


def change_weights(checkpoint: Path, change: Change) -> None:
    """Apply a change to all weights, which then lie in one file."""
    weights: dict[str, torch.Tensor] = {}
    for file in checkpoint.glob("*.safetensors"):
        weights.update(load_file(file))
        file.unlink()
    (checkpoint / "model.safetensors.index.json").unlink()
    change(weights)
    save_file(weights, checkpoint / "model.safetensors")


def refusal(checkpoint: Path) -> str:
    with pytest.raises(ExportError) as raised:
        open_retriever(str(checkpoint), "colqwen2")
    return str(raised.value)


def test_all_missing_unused_and_misshapen_weights_are_named(checkpoint: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        del weights["model.norm.weight"], weights["visual.blocks.0.mlp.fc2.bias"]
        weights["visual.blocks.7.norm1.weight"] = torch.zeros(4)
        weights["model.layers.0.self_attn.q_norm.weight"] = torch.zeros(4)
        weights["custom_text_proj.bias"] = torch.zeros(64)
        weights["visual.merger.mlp.0.weight"] = torch.zeros(3, 5)

    change_weights(checkpoint, change)
    text = refusal(checkpoint)
    assert "2 missing: model.norm.weight, visual.blocks.0.mlp.fc2.bias" in text
    assert "2 unused: model.layers.0.self_attn.q_norm.weight, visual.blocks.7.norm1.weight" in text
    assert "custom_text_proj.bias is [64], the model needs [128]" in text
    assert "visual.merger.mlp.0.weight is [3, 5], the model needs [640, 640]" in text


def test_a_language_head_may_stay_unused(checkpoint: Path) -> None:
    change_weights(checkpoint, lambda weights: weights.update({"lm_head.weight": torch.zeros(1024, 256)}))
    open_retriever(str(checkpoint), "colqwen2")


def test_a_plain_qwen2_vl_is_no_retriever(checkpoint: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        del weights["custom_text_proj.weight"], weights["custom_text_proj.bias"]

    change_weights(checkpoint, change)
    assert "no late projection (custom_text_proj.weight or embedding_proj_layer.weight)" in refusal(checkpoint)


def test_every_weight_that_holds_no_numbers_or_only_zeros_is_named(checkpoint: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["model.norm.weight"].zero_()
        weights["model.layers.0.input_layernorm.weight"].zero_()
        weights["model.layers.0.mlp.up_proj.weight"][3, 5] = float("nan")
        weights["model.embed_tokens.weight"][7, 0] = float("-inf")
        # A block has a way around it, and a bias may be zero.
        weights["model.layers.0.mlp.down_proj.weight"].zero_()
        weights["model.layers.0.self_attn.q_proj.bias"].zero_()
        weights["custom_text_proj.weight"].zero_()

    change_weights(checkpoint, change)
    retriever = open_retriever(str(checkpoint), "colqwen2")
    said = {}
    for step in retriever.steps:
        try:
            load_step(step, retriever.checkpoint.weights)
        except ExportError as error:
            said[step.name] = str(error)
    assert said.keys() == {"language_model", "late_head"}
    assert said["late_head"].startswith(
        "weights: custom_text_proj.weight is all zero. With these, items have no vectors or all"
    )
    assert said["language_model"].startswith(
        "weights: model.embed_tokens.weight holds values that are no numbers (NaN or infinity); "
        "model.layers.0.input_layernorm.weight is all zero; "
        "model.layers.0.mlp.up_proj.weight holds values that are no numbers (NaN or infinity); "
        "model.norm.weight is all zero. With these"
    )


def add_tokens(checkpoint: Path, count: int) -> None:
    path = checkpoint / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([AddedToken(f"<new_{number}>") for number in range(count)])
    tokenizer.save(str(path))


def test_tokens_without_an_embedding_are_named(checkpoint: Path) -> None:
    rows = 1024
    free = rows - Tokenizer.from_file(str(checkpoint / "tokenizer.json")).get_vocab_size()
    add_tokens(checkpoint, free)
    open_retriever(str(checkpoint), "colqwen2")
    add_tokens(checkpoint, free + 11)
    text = refusal(checkpoint)
    assert f"model.embed_tokens.weight has {rows} rows, and tokenizer.json has tokens beyond them: " in text
    assert f"'<new_{free}>' ({rows}), '<new_{free + 1}>' ({rows + 1}), " in text
    assert f"({rows + 7}) and 3 more" in text


def edit_config(checkpoint: Path, **values: object) -> None:
    path = checkpoint / "config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_every_unfit_field_of_the_config_is_named(checkpoint: Path) -> None:
    edit_config(checkpoint, rms_norm_eps=None, hidden_act="gelu", use_sliding_window=True, vocab_size=None)
    text = refusal(checkpoint)
    for problem in ("rms_norm_eps is missing", "vocab_size is missing", "hidden_act is 'gelu'", "use_sliding_window"):
        assert problem in text


def test_scaled_rotary_positions_are_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, rope_scaling={"type": "yarn", "factor": 4, "mrope_section": [16, 24, 24]})
    assert "'yarn'" in refusal(checkpoint)
    edit_config(checkpoint, rope_scaling={"type": "mrope", "mrope_section": [16, 24, 20]})
    assert "half a head" in refusal(checkpoint)


def test_a_checkpoint_without_tokenizer_is_refused(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    assert "tokenizer.json" in refusal(checkpoint)


def test_a_tokenizer_that_is_cut_is_refused(checkpoint: Path) -> None:
    path = checkpoint / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:-100])
    assert re.search(r"tokenizer\.json holds no tokenizer \(EOF while.*Download it again", refusal(checkpoint))
