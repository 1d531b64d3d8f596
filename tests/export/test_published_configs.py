"""Files of published checkpoints, as they were published (`published/*/SOURCE.txt`): read, and their shapes fitted.

transformers reads the same files, and says which weights there are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from export.shapes import Shapes, shapes_of
from periscope_export.checkpoint.adapter_config import LoraSettings
from periscope_export.errors import ExportError
from periscope_export.families import family, jina_clip, paligemma, qwen2_vl, qwen3_vl
from periscope_export.families.reading import completed
from periscope_export.models.steps import Step
from periscope_export.models.weights import check_weights
from periscope_export.published import open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import resolve
from periscope_export.recipes.schema import Recipe
from periscope_testing.jina_clip.checkpoint import JinaClipSizes, jina_clip_config
from periscope_testing.torchvision_operators import declare_torchvision_operators

PUBLISHED = Path(__file__).parent / "published"
declare_torchvision_operators()


def stored(name: str, file: str = "config.json") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((PUBLISHED / name / file).read_text())
    return content


def resolved(name: str, recipe: str, **settings: Any) -> tuple[Recipe, list[str]]:
    """A recipe with what a published folder says; its config is read as an export reads it."""
    backbone = family(load_recipe(recipe))

    def read_json(file: str) -> dict[str, Any] | None:
        if not (PUBLISHED / name / file).is_file():
            return None
        return completed(stored(name, file), backbone.defaults) if file == "config.json" else stored(name, file)

    return resolve(load_recipe(recipe), read_json, settings)


def towers(name: str, recipe: str, **settings: Any) -> tuple[Step, ...]:
    return family(load_recipe(recipe)).steps(stored(name), resolved(name, recipe, **settings)[0])


# A checkpoint, the recipe whose towers it has, and the settings without which the export asks.
OWNED = [
    ("Qwen2-VL-2B", "colqwen2", {"preparation.image.max_pixels": 602112}),
    ("jina-reranker-m0", "colqwen2", {}),
    ("colpali-v1.2-merged", "colpali", {}),
    ("paligemma-3b-pt-224", "colpali", {}),
    ("Qwen3-VL-Embedding-8B", "qwen3_vl_embedding", {}),
]


@pytest.mark.parametrize(("name", "recipe", "settings"), OWNED)
def test_the_towers_take_what_transformers_makes_of_the_same_file(
    name: str, recipe: str, settings: dict[str, Any]
) -> None:
    backbone = family(load_recipe(recipe))
    shapes = Shapes(shapes_of(stored(name)), backbone.canonical)
    check_weights(towers(name, recipe, **settings), shapes, backbone.unused)


@pytest.mark.parametrize(("name", "recipe", "settings"), [OWNED[0], OWNED[4]])
def test_the_towers_take_every_weight_of_the_index_and_all_its_bytes(
    name: str, recipe: str, settings: dict[str, Any]
) -> None:
    """Shapes are transformers', which the bytes of the published files confirm."""
    backbone, index = family(load_recipe(recipe)), stored(name, "model.safetensors.index.json")
    theirs = Shapes(shapes_of(stored(name)), backbone.canonical).shapes
    names = {backbone.canonical(stored_name) for stored_name in index["weight_map"]}
    assert len(names) == len(index["weight_map"])
    assert names == theirs.keys() - {"lm_head.weight"}
    assert 2 * sum(math.prod(theirs[one]) for one in names) == index["metadata"]["total_size"]
    check_weights(towers(name, recipe, **settings), Shapes({one: theirs[one] for one in names}, str), backbone.unused)


def test_what_transformers_4_47_left_out_of_a_qwen2_vl_is_what_the_full_file_says() -> None:
    short, full = stored("jina-reranker-m0"), stored("Qwen2-VL-2B")
    assert "depth" not in short["vision_config"]
    assert qwen2_vl.read(short) == qwen2_vl.read(full)
    # As 4.45.2 to 4.49.0 save the 7B, whose vision part is all defaults.
    wide = {"hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944}
    seven = {**full, **wide, "vision_config": {**full["vision_config"], "hidden_size": 3584}}
    left = {"in_chans": 3, "model_type": "qwen2_vl", "spatial_patch_size": 14}
    assert qwen2_vl.read({**seven, "vision_config": left}) == qwen2_vl.read(seven)
    with pytest.raises(ExportError, match=r"vision_config.hidden_size is 3584, the language model is 1536 wide"):
        qwen2_vl.read({**full, "vision_config": left})


def test_what_transformers_leaves_out_of_a_paligemma_is_what_the_full_file_says() -> None:
    short = stored("paligemma-3b-pt-224")
    assert "image_size" not in short["vision_config"]
    vision = {**short["vision_config"], "image_size": 224, "layer_norm_eps": 1e-6, "num_channels": 3}
    text = {**short["text_config"], "head_dim": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}
    full = {**short, "vision_config": vision, "text_config": text}
    assert paligemma.read(short) == paligemma.read(full)
    assert resolved("paligemma-3b-pt-224", "colpali")[0].preparation.page_policy.side == 224


def test_what_transformers_4_49_left_out_of_a_colpali_is_what_the_full_file_says() -> None:
    """As it saves vidore/colpali-v1.2-hf: not even the kinds of the two models stand inside."""
    full = stored("colpali-v1.2-merged")
    inner = {key: value for key, value in full.items() if key not in ("hidden_size", "ignore_index", "projection_dim")}
    for section in ("text_config", "vision_config"):
        inner[section] = {key: value for key, value in full[section].items() if key != "model_type"}
    short = {"embedding_dim": 128, "model_type": "colpali", "vlm_config": inner, "text_config": full["text_config"]}
    assert paligemma.read(short) == paligemma.read(full)


def test_what_transformers_4_49_left_out_of_a_jina_clip_is_what_the_full_file_says() -> None:
    """Left out are the defaults of JinaCLIPVisionConfig (configuration_clip.py of jinaai/jina-clip-implementation)."""
    full = jina_clip_config(JinaClipSizes(), 400)
    defaults: dict[str, Any] = {
        "embed_dim": 768,
        "width": 768,
        "image_size": 224,
        "patch_size": 16,
        "layers": 12,
        "head_width": 64,
    }
    defaults |= {"ls_init_value": None, "qkv_bias": True, "fused_layer_norm": False, "x_attention": False}
    defaults |= {"post_norm": False, "intp_freq": False, "proj_type": None}
    full["vision_config"] |= defaults
    full["text_config"]["hf_model_config_kwargs"] = {"use_flash_attn": False}
    vision = {key: value for key, value in full["vision_config"].items() if key not in defaults}
    assert jina_clip.read({**full, "vision_config": vision}) == jina_clip.read(full)


@pytest.mark.parametrize(("name", "recipe", "settings"), OWNED)
@pytest.mark.parametrize("form", ["to_diff_dict", "to_dict"])
def test_what_transformers_5_writes_of_it_reads_the_same(
    name: str, recipe: str, settings: dict[str, Any], form: str
) -> None:
    from transformers import AutoConfig

    config = stored(name)
    saved = json.loads(json.dumps(getattr(AutoConfig.for_model(**config), form)(), default=str))
    backbone = {"qwen2_vl": qwen2_vl, "paligemma": paligemma, "qwen3_vl": qwen3_vl}[load_recipe(recipe).backbone]
    assert backbone.read(saved) == backbone.read(config)


@pytest.mark.parametrize(
    ("name", "recipe", "changes"),
    [
        ("colqwen2-v1.0", "colqwen2", 0),
        ("nomic-embed-multimodal-7b", "nomic_embed_multimodal", 0),
        ("colpali-v1.0", "colpali", 0),
        ("colpali-v1.2-merged", "colpali", 0),
        ("jina-reranker-m0", "colqwen2", 0),
        # Its pixel limits are never used.
        ("Qwen3-VL-Embedding-8B", "qwen3_vl_embedding", 0),
        ("paligemma-3b-pt-224", "colpali", 1),
    ],
)
def test_what_published_files_say_of_images_is_what_the_recipe_says(name: str, recipe: str, changes: int) -> None:
    assert len(resolved(name, recipe)[1]) == changes


def test_the_limit_of_the_base_is_not_taken_unasked() -> None:
    with pytest.raises(ExportError, match=r"max_pixels is 12845056, 21 times the 602112 of the recipe"):
        resolved("Qwen2-VL-2B", "colqwen2")


@pytest.mark.parametrize("name", ["colqwen2-v1.0", "colpali-v1.0"])
def test_published_adapters_can_be_merged(name: str) -> None:
    settings = LoraSettings(stored(name, "adapter_config.json"))
    assert (settings.rank("model.layers.0.mlp.up_proj"), settings.scaling("custom_text_proj")) == (32, 1.0)


OTHERS = [
    (stored("jina-clip-v2"), "jina_clip_v1", r"this is a jina-clip-v2 \(text_config.*: its text tower is an XLM-RoB"),
    (
        {"model_type": "qwen2_5_vl"},
        "colqwen2",
        r"this is a Qwen2\.5-VL .*, not a Qwen2-VL: its vision tower attends with",
    ),
    ({"model_type": "colqwen2", "vlm_config": {"model_type": "qwen2_5_vl"}}, "colqwen2", r"this is a Qwen2\.5-VL"),
    ({"model_type": "paligemma", "text_config": {"model_type": "gemma2"}}, "colpali", r"this is a PaliGemma 2"),
    ({"model_type": "qwen3_vl_moe"}, "qwen3_vl_embedding", r"this is a Qwen3-VL with experts"),
    (
        stored("Qwen2-VL-2B"),
        "colpali",
        r"another kind \(model_type is 'qwen2_vl'\), not a PaliGemma \(paligemma or col",
    ),
    (stored("Qwen3-VL-Embedding-8B"), "colqwen2", r"another kind \(model_type is 'qwen3_vl'\), not a Qwen2-VL"),
    (stored("colpali-v1.2-merged"), "jina_clip_v1", r"another kind \(model_type is 'paligemma'\), not a jina-clip-v1"),
]


@pytest.mark.parametrize(
    ("recipe", "config", "reason"),
    [
        ("colqwen2", {"vlm_config": {"vision_config": [1]}}, r"vlm_config\.vision_config is \[1\], no section"),
        ("colqwen2", {"text_config": {"rope_scaling": "mrope"}}, r"text_config\.rope_scaling is 'mrope', no section"),
        ("colpali", {"text_config": "gemma"}, r"text_config is 'gemma', no section"),
        ("qwen3_vl_embedding", {"vision_config": 3}, r"vision_config is 3, no section"),
        (
            "jina_clip_v1",
            {"text_config": {"hf_model_config_kwargs": []}},
            r"text_config\.hf_model_config_kwargs is \[\], no section",
        ),
    ],
)
def test_a_section_that_is_none_is_named(config: dict[str, Any], recipe: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=rf"^config\.json: {reason}"):
        open_retriever(str(tmp_path), recipe)


@pytest.mark.parametrize(("config", "recipe", "reason"), OTHERS)
def test_a_checkpoint_of_another_system_is_called_so(
    config: dict[str, Any], recipe: str, reason: str, tmp_path: Path
) -> None:
    """And nothing else that follows from it is listed."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(
        (PUBLISHED / "jina-clip-v2/preprocessor_config.json").read_text()
    )
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match=reason) as raised:
        open_retriever(str(tmp_path), recipe)
    assert "missing" not in str(raised.value)
    assert "Correct these fields" not in str(raised.value)


@pytest.mark.parametrize("value", ["192", -1, 0, True, {"size": 192}])
@pytest.mark.parametrize(
    ("name", "read", "section", "field"),
    [
        ("Qwen2-VL-2B", qwen2_vl.read, None, "hidden_size"),
        ("Qwen2-VL-2B", qwen2_vl.read, "vision_config", "depth"),
        ("Qwen3-VL-Embedding-8B", qwen3_vl.read, "text_config", "head_dim"),
        ("paligemma-3b-pt-224", paligemma.read, "text_config", "num_attention_heads"),
        ("paligemma-3b-pt-224", paligemma.read, "text_config", "rope_theta"),
        ("paligemma-3b-pt-224", paligemma.read, "vision_config", "layer_norm_eps"),
        ("jina-clip-v1", jina_clip.read, "vision_config", "mlp_ratio"),
        ("jina-clip-v1", jina_clip.read, "text_config", "hidden_size"),
    ],
)
def test_a_size_that_is_no_positive_number_is_named(
    name: str, read: Callable[[dict[str, Any]], object], section: str | None, field: str, value: object
) -> None:
    config = jina_clip_config(JinaClipSizes(), 1000) if name == "jina-clip-v1" else stored(name)
    read(config)
    place = config[section] if section else config
    if name == "jina-clip-v1" and section == "text_config":
        place = place["hf_model_config_kwargs"]
    place[field] = value
    with pytest.raises(ExportError, match=rf"{field} is {re.escape(repr(value))}, no positive number"):
        read(config)


@pytest.mark.parametrize("sections", [[16, 24, 24], [24.5, 20, "20"]])
def test_sections_that_cannot_interleave_are_named(sections: list[Any]) -> None:
    config = stored("Qwen3-VL-Embedding-8B")
    config["text_config"]["rope_scaling"]["mrope_section"] = sections
    with pytest.raises(ExportError, match=rf"mrope_section (is )?{re.escape(str(sections))}"):
        qwen3_vl.read(config)
