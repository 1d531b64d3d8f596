"""A weight that a checkpoint lacks is called as the checkpoint would call it."""

from __future__ import annotations

import re

import pytest

from periscope_export.checkpoint.adapter_keys import sort_keys
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


# Of published checkpoints on Qwen2-VL and Qwen2.5-VL, before names of vision tower, language model and language head.
QWEN_FORMS = {
    "the hub's": ("visual.", "model.", "lm_head."),
    "since transformers 4.52": ("model.visual.", "model.language_model.", "lm_head."),
    "the inner model": ("visual.", "language_model.", "lm_head."),
    "the language model alone in PEFT": ("visual.", "", "lm_head."),
    "a language model with a head of its own": ("visual.", "language_model.model.", "lm_head."),
    "a retriever of transformers, up to 4.51": ("vlm.visual.", "vlm.model.", "vlm.lm_head."),
    "since 4.52": ("vlm.model.visual.", "vlm.model.language_model.", "vlm.lm_head."),
    "of the inner model": ("vlm.visual.", "vlm.language_model.", "vlm.lm_head."),
    "a live PEFT model": ("base_model.model.visual.", "base_model.model.model.", "base_model.model.lm_head."),
}


@pytest.mark.parametrize("adapter", ["", ".default"])
@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
@pytest.mark.parametrize(("vision", "language", "head"), QWEN_FORMS.values(), ids=QWEN_FORMS.keys())
def test_every_published_form_of_names_on_qwen(
    family: str, vision: str, language: str, head: str, adapter: str
) -> None:
    """Full weights, and an adapter of them, whose keys have its name or not."""
    known = families()[family]

    def canonical(name: str) -> str:
        return known.canonical(unwrapped(name))

    assert canonical(f"{vision}merger.ln_q.weight") == "visual.merger.ln_q.weight"
    assert canonical(f"{language}embed_tokens.weight") == known.embeddings
    assert canonical(f"{language}norm.weight") == "language_model.norm.weight"
    assert re.fullmatch(known.unused, canonical(f"{head}weight"))
    changed = [f"{vision}blocks.0.attn.qkv", f"{language}layers.0.mlp.up_proj"]
    keys = [f"base_model.model.{name}.lora_{part}{adapter}.weight" for name in changed for part in "AB"]
    edits, problems = sort_keys(keys, canonical)
    assert not problems
    assert set(edits) == {"visual.blocks.0.attn.qkv.weight", "language_model.layers.0.mlp.up_proj.weight"}


@pytest.mark.parametrize("name", ["model.submodule.weight", "my_orig_mod.weight", "base_model.weight", "module"])
def test_what_only_looks_like_a_wrapper_stays(name: str) -> None:
    assert unwrapped(name) == name
