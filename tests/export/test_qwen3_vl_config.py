"""Fields that are read from a Qwen3-VL's config.json, and those that stop an export."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from export.shapes import Shapes
from periscope_export.errors import ExportError
from periscope_export.families import families
from periscope_export.families.qwen3_vl import FAMILY, read
from periscope_export.models.weights import check_weights
from periscope_export.recipes.loading import load_recipe
from periscope_testing.qwen3_vl.checkpoint import QWEN3_VL_2B, Qwen3VLSizes, config_of, published_shapes
from periscope_testing.tokenizers.qwen2 import make_tokenizer


def a_config() -> dict[str, Any]:
    return config_of(Qwen3VLSizes(), make_tokenizer())


def test_theta_is_read_from_either_place() -> None:
    old = a_config()
    assert read(old)[1].theta == 5_000_000
    new = a_config()
    text = new["text_config"]
    text["rope_parameters"] = {**text.pop("rope_scaling"), "rope_theta": text.pop("rope_theta")}
    assert read(new) == read(old)


# The published sizes, and how many values the published files have.
PUBLISHED = {
    "2B": (QWEN3_VL_2B, 2_127_532_032),
    "4B": (replace(QWEN3_VL_2B, layers=36, width=2560, heads=32, mlp=9728), 4_437_815_808),
    "8B": (
        Qwen3VLSizes(
            vision_layers=27,
            vision_heads=16,
            vision_head_width=72,
            vision_mlp=4304,
            levels=(8, 16, 24),
            layers=36,
            width=4096,
            heads=32,
            kv_heads=8,
            mlp=12288,
            vocabulary=151936,
            tied=False,
        ),
        8_767_123_696,
    ),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_towers_take_the_published_models_whole(size: str) -> None:
    sizes, values = PUBLISHED[size]
    config = config_of(sizes, make_tokenizer())
    shapes = published_shapes(config)
    assert sum(shape.numel() for shape in shapes.values()) == values
    weights = Shapes(shapes, FAMILY.canonical)
    towers = FAMILY.steps(config, load_recipe("qwen3_vl_embedding"))
    check_weights(towers, weights, FAMILY.unused)
    lost = dict(shapes)
    del lost["model.visual.deepstack_merger_list.2.norm.bias"]
    weights = Shapes({**lost, "model.visual.extra.weight": torch.Size([1])}, FAMILY.canonical)
    with pytest.raises(
        ExportError,
        match=r"1 missing: model\.visual\.deepstack_merger_list\.2\.norm\.bias; 1 unused: model\.visual\.extra",
    ):
        check_weights(towers, weights, FAMILY.unused)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("text_config", "head_dim", None, "text_config.head_dim is missing"),
        ("text_config", "rope_theta", None, "text_config.rope_theta is missing"),
        ("vision_config", "deepstack_visual_indexes", None, "vision_config.deepstack_visual_indexes is missing"),
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
        read(config)


def test_every_missing_field_is_listed() -> None:
    with pytest.raises(ExportError) as caught:
        read({})
    assert str(caught.value).count("is missing") == 19


def test_the_image_token() -> None:
    config = a_config()
    assert FAMILY.image_token_id(config) == config["image_token_id"]


@pytest.mark.parametrize(
    ("whole", "text", "tied"),
    [(None, None, False), (True, None, True), (False, None, False), (None, True, True), (False, True, True)],
)
def test_whether_the_language_head_is_the_embeddings(whole: bool | None, text: bool | None, tied: bool) -> None:
    config = a_config()
    for section, value in ((config, whole), (config["text_config"], text)):
        del section["tie_word_embeddings"]
        section.update({} if value is None else {"tie_word_embeddings": value})
    names = ("lm_head.weight", "language_model.embed_tokens.weight")
    assert families()["qwen3_vl"].tied_names(config) == (names if tied else None)
    # PaliGemma's class ties by default.
    expected = names if tied or (whole is None and text is None) else None
    assert families()["paligemma"].tied_names({"vlm_config": config}) == expected
    assert families()["jina_clip"].tied_names(config) is None
