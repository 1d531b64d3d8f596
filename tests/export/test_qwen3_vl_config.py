"""What is read from a Qwen3-VL's config.json, and what stops an export."""

from __future__ import annotations

from typing import Any

import pytest

from periscope_demo.checkpoints.qwen3_vl import Qwen3VLSizes, config_of
from periscope_demo.tokenizer import make_tokenizer
from periscope_export.backbones.qwen3_vl.config import read_configs
from periscope_export.backbones.qwen3_vl.steps import image_token_id, language_head
from periscope_export.errors import ExportError


def a_config() -> dict[str, Any]:
    return config_of(Qwen3VLSizes(), make_tokenizer())


def test_theta_is_read_from_either_place() -> None:
    old = a_config()
    assert read_configs(old)[1].theta == 5_000_000
    new = a_config()
    text = new["text_config"]
    text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}
    assert read_configs(new) == read_configs(old)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("text_config", "head_dim", None, "text_config.head_dim is missing"),
        ("text_config", "rope_theta", None, "text_config.rope_theta is missing"),
        ("vision_config", "deepstack_visual_indexes", None, "vision_config.deepstack_visual_indexes is missing"),
        (None, "tie_word_embeddings", None, "tie_word_embeddings is missing"),
        ("text_config", "attention_bias", True, "attention_bias is True"),
        ("vision_config", "hidden_act", "gelu", "hidden_act is 'gelu'"),
        (
            "text_config",
            "rope_scaling",
            {"mrope_section": [24, 20, 20], "mrope_interleaved": False},
            "mrope_interleaved",
        ),
        ("text_config", "rope_scaling", {"mrope_section": [24, 20, 20], "rope_type": "yarn"}, "rope_type is 'yarn'"),
        ("text_config", "rope_scaling", {"mrope_section": [24, 20, 24]}, "not three parts of half a head"),
        ("vision_config", "out_hidden_size", 64, "out_hidden_size is 64"),
        ("vision_config", "num_position_embeddings", 2300, "2300 is no square"),
        ("vision_config", "deepstack_visual_indexes", [0, 1, 9], "not ascending blocks of 5"),
        ("vision_config", "deepstack_visual_indexes", [0, 1, 2, 3, 4], "more than the language model has layers"),
    ],
)
def test_configs_that_these_towers_are_not_for(section: str | None, field: str, value: Any, message: str) -> None:
    config = a_config()
    place = config[section] if section else config
    if value is None:
        del place[field]
    else:
        place[field] = value
    with pytest.raises(ExportError, match=message):
        read_configs(config)


def test_every_missing_field_is_listed() -> None:
    with pytest.raises(ExportError) as caught:
        read_configs({})
    assert str(caught.value).count("is missing") == 20


def test_the_weight_that_scores_tokens() -> None:
    config = a_config()
    assert language_head(config) == "language_model.embed_tokens.weight"
    config["tie_word_embeddings"] = False
    assert language_head(config) == "lm_head.weight"
    assert image_token_id(config) == config["image_token_id"]
