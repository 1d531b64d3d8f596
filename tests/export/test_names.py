"""A weight that a checkpoint lacks is called as the checkpoint would call it."""

from __future__ import annotations

import pytest

from periscope_export.checkpoint.names import as_stored, unwrapped
from periscope_export.families import families

# A family's word, and names of a layout.
LAYOUTS: dict[str, tuple[str, list[str]]] = {
    "qwen2_vl, published": (
        "qwen2_vl",
        ["visual.blocks.0.attn.qkv.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"],
    ),
    "qwen2_vl, transformers 5": (
        "qwen2_vl",
        ["vlm.model.visual.merger.ln_q.weight", "vlm.model.language_model.layers.0.mlp.up_proj.weight"],
    ),
    "qwen3_vl": (
        "qwen3_vl",
        ["model.visual.blocks.0.mlp.linear_fc1.weight", "model.language_model.layers.0.self_attn.q_norm.weight"],
    ),
    "paligemma": (
        "paligemma",
        [
            "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
            "model.language_model.model.layers.0.mlp.up_proj.weight",
        ],
    ),
    "jina_clip": (
        "jina_clip",
        ["text_model.transformer.encoder.layers.0.mixer.Wqkv.weight", "vision_model.blocks.0.norm1.weight"],
    ),
    "jina_clip, as BERT": ("jina_clip", ["text_model.transformer.encoder.layer.0.attention.output.LayerNorm.weight"]),
}


@pytest.mark.parametrize(("family", "stored"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_the_bias_and_another_layer_of_a_stored_weight(family: str, stored: list[str]) -> None:
    canonical = families()[family].canonical
    names = {canonical(name): name for name in stored}
    for name in stored:
        for lacking in (name.replace("weight", "bias"), name.replace(".0.", ".17.")):
            assert as_stored(canonical(lacking), names, canonical) == lacking


def test_the_most_alike_decides() -> None:
    stored = {"a.x.weight": "one.x.weight", "a.y.z.weight": "two.y.z.weight"}

    def canonical(name: str) -> str:
        return name.replace("one.", "a.").replace("two.", "a.")

    assert as_stored("a.y.z.bias", stored, canonical) == "two.y.z.bias"
    assert as_stored("a.x.bias", stored, canonical) == "one.x.bias"
    assert as_stored("b.weight", stored, canonical) == "b.weight"
    assert as_stored("b.weight", {}, canonical) == "b.weight"


@pytest.mark.parametrize("name", ["model.submodule.weight", "my_orig_mod.weight", "base_model.weight", "module"])
def test_what_only_looks_like_a_wrapper_stays(name: str) -> None:
    assert unwrapped(name) == name
