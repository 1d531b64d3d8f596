"""PaliGemmas that are exported: stored names and settings, and refusals of others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.paligemma_towers import Towers
from periscope_export.errors import ExportError
from periscope_export.families.paligemma import FAMILY, read, steps
from periscope_export.recipes.loading import load_recipe
from periscope_testing.colpali.checkpoint import ColPaliSizes, make_colpali


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = tmp_path_factory.mktemp("made") / "colpali"
    checkpoint = make_colpali(made, ColPaliSizes(side=448), adapter=False)
    content: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return content


@pytest.mark.parametrize("outer", ["", "model.", "model.model.", "vlm.", "vlm.model."])
@pytest.mark.parametrize(
    ("stored", "name"),
    [
        ("vision_tower.vision_model.post_layernorm.bias", "visual.last_norm.bias"),
        ("vision_tower.encoder.layers.3.mlp.fc1.weight", "visual.blocks.3.mlp.fc1.weight"),
        ("multi_modal_projector.linear.weight", "visual.projector.linear.weight"),
        ("language_model.model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"),
        ("language_model.norm.weight", "language_model.norm.weight"),
        ("language_model.lm_head.weight", "lm_head.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_names_of_every_layout_are_one(outer: str, stored: str, name: str) -> None:
    assert FAMILY.canonical(outer + stored) == name


def test_pooling_heads_and_language_heads_are_left_out_and_nothing_else(tmp_path: Path) -> None:
    checkpoint = make_colpali(tmp_path / "colpali", layout="engine-old", adapter=False)
    path = checkpoint / "model.safetensors"
    stored = load_file(path)
    stored["model.vision_tower.vision_model.head.probe"] = torch.zeros(1, 1, 144)
    stored["model.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(16).unsqueeze(0)
    stored["model.language_model.lm_head.weight"] = torch.zeros(4, 192)
    save_file(stored, path)
    Towers(checkpoint)
    save_file({**stored, "model.vision_tower.vision_model.extra.weight": torch.zeros(1)}, path)
    with pytest.raises(ExportError, match=r"1 unused: model\.vision_tower\.vision_model\.extra\.weight"):
        Towers(checkpoint)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("text_config", "model_type", "gemma2", "text_config.model_type is 'gemma2'"),
        ("text_config", "attention_bias", True, "text_config.attention_bias is True"),
        ("text_config", "hidden_act", "silu", "text_config.hidden_act is 'silu'"),
        ("text_config", "num_key_value_heads", None, "text_config.num_key_value_heads is missing"),
        ("vision_config", "image_size", None, "vision_config.image_size is missing"),
        ("vision_config", "hidden_act", "quick_gelu", "vision_config.hidden_act is 'quick_gelu'"),
        ("vision_config", "image_size", 449, "449 is no multiple of 14"),
        ("vision_config", "image_size", 224, "preparation.image.side is 448, the checkpoint needs 224"),
    ],
)
def test_configs_that_the_towers_cannot_hold_are_refused(
    config: dict[str, Any], section: str, field: str, value: Any, message: str
) -> None:
    with pytest.raises(ExportError, match=re.escape(message)):
        steps({**config, section: {**config[section], field: value}}, load_recipe("colpali"))


def test_stored_settings_win_over_those_of_the_classes(config: dict[str, Any]) -> None:
    vision, language = read(config)
    assert (language.decoder.head, language.theta, language.decoder.eps, vision.trunk.eps) == (256, 10000.0, 1e-6, 1e-6)
    text = {**config["text_config"], "head_dim": 64, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_theta": 5.0}}
    _, language = read({**config, "text_config": text})
    assert (language.decoder.head, language.theta, language.decoder.eps) == (64, 5.0, 1e-5)
