"""SigLIP, Gemma and the late head against transformers and colpali-engine, in PyTorch and as graphs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from periscope_demo.checkpoints.colpali import ColPaliSizes, Layout, make_colpali
from periscope_export.backbones.paligemma import names
from periscope_export.backbones.paligemma.steps import steps
from periscope_export.checkpoint import open_checkpoint
from periscope_export.errors import ExportError
from periscope_export.graph import export_graph, module_runner
from periscope_export.heads import late_step
from periscope_export.precision import at
from periscope_export.recipe import Recipe
from periscope_export.steps import Step
from periscope_export.weights import check_weights, load_step
from references.colpali import ColPaliReference, Vectors

TOLERANCE = 1e-5
QUERIES = ("revenue by region", "x", "Wie viele Seiten? " * 5)

Modules = dict[str, nn.Module]
Tensors = dict[str, NDArray[Any]]


def recipe(side: int = 56) -> Recipe:
    """The part of a recipe that the backbone reads."""
    image = SimpleNamespace(
        patch_size=14,
        temporal_patch_size=1,
        merge_size=1,
        side=side,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        patch_dim=588,
    )
    paths = ("text", "image")
    return cast(
        Recipe, SimpleNamespace(preparation=SimpleNamespace(image=image), paths=paths, visual_paths=("image",))
    )


def described(checkpoint: Path, side: int = 56) -> tuple[Any, dict[str, Step]]:
    def canonical(name: str) -> str:
        head = re.fullmatch(r"(?:custom_text_proj|embedding_proj_layer)\.(weight|bias)", name)
        return f"late_head.projection.{head[1]}" if head else names.canonical(name)

    opened = open_checkpoint(checkpoint, canonical=canonical)
    vision, language = steps(opened.config, recipe(side))
    late = late_step(opened.config.get("vlm_config", opened.config)["text_config"]["hidden_size"], 128)
    return opened.weights, {step.name: at(step, "fp32") for step in (vision, language, late)}


class Towers:
    def __init__(self, checkpoint: Path, side: int = 56) -> None:
        weights, self.steps = described(checkpoint, side)
        check_weights(tuple(self.steps.values()), weights, names.UNUSED)
        self.modules: Modules = {name: load_step(step, weights) for name, step in self.steps.items()}

    def run(self, name: str, tensors: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        (found,) = module_runner(self.steps[name], self.modules[name])(name, tensors).values()
        return found

    def vectors(self, tensors: Tensors) -> list[Vectors]:
        """Late vectors of each row, padding removed."""
        if "patches" in tensors:
            tensors = {**tensors, "visual_tokens": self.run("vision_encoder", tensors)}
        states = self.run("language_model", tensors)
        late = self.run("late_head", {"hidden_states": states, "late_mask": tensors["attention_mask"]})
        return [row[mask > 0] for row, mask in zip(late, tensors["attention_mask"], strict=True)]


def page(seed: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (150, 220, 3), dtype=np.uint8))


def patches_of(reference: ColPaliReference, pages: list[Image.Image]) -> NDArray[np.uint8]:
    """The published pixels before they are rescaled, cut into patches: channel, row, column."""
    processor = reference.processor.image_processor
    pixels = np.stack(processor(pages, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"])
    rows, _, side, _ = pixels.shape
    cut = pixels.astype(np.uint8).reshape(rows, 3, side // 14, 14, side // 14, 14)
    return cut.transpose(0, 2, 4, 1, 3, 5).reshape(rows, (side // 14) ** 2, 588)


def text_tensors(reference: ColPaliReference, texts: list[str], width: int) -> Tensors:
    inputs = reference.query_inputs(texts)
    return {
        "input_ids": inputs["input_ids"].numpy().astype(np.int32),
        "attention_mask": inputs["attention_mask"].numpy().astype(np.int32),
        "visual_tokens": np.zeros((len(texts), 0, width), np.float32),
    }


def page_tensors(reference: ColPaliReference, pages: list[Image.Image]) -> Tensors:
    inputs = reference.image_inputs(pages)
    return {
        "input_ids": inputs["input_ids"].numpy().astype(np.int32),
        "attention_mask": inputs["attention_mask"].numpy().astype(np.int32),
        "patches": patches_of(reference, pages),
    }


def difference(found: list[Vectors], wanted: list[Vectors]) -> float:
    assert [row.shape for row in found] == [row.shape for row in wanted]
    return max(float(np.abs(one - other).max()) for one, other in zip(found, wanted, strict=True))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colpali(tmp_path_factory.mktemp("made") / "colpali", layout="transformers", adapter=False, seed=5)


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> ColPaliReference:
    return ColPaliReference(checkpoint)


@pytest.fixture
def towers(checkpoint: Path) -> Towers:
    return Towers(checkpoint)


@pytest.mark.parametrize(
    ("layout", "adapter"),
    [
        ("transformers", False),
        ("transformers-old", False),
        ("engine-old", False),
        ("engine-old", True),
        ("engine-new", False),
        ("engine-new", True),
    ],
)
def test_every_layout_gives_the_published_vectors(tmp_path: Path, layout: Layout, adapter: bool) -> None:
    checkpoint = make_colpali(tmp_path / "colpali", layout=layout, adapter=adapter, seed=5)
    reference, towers = ColPaliReference(checkpoint), Towers(checkpoint)
    pages, texts = [page(1), page(2)], list(QUERIES)
    assert difference(towers.vectors(page_tensors(reference, pages)), reference.images(pages)) <= TOLERANCE
    assert difference(towers.vectors(text_tensors(reference, texts, 192)), reference.queries(texts)) <= TOLERANCE


def test_both_published_implementations_agree(tmp_path: Path, reference: ColPaliReference) -> None:
    """The same weights through colpali-engine, so that the target hangs on no single package."""
    engine = ColPaliReference(make_colpali(tmp_path / "engine", layout="engine-old", adapter=False, seed=5))
    assert type(engine.model) is not type(reference.model)
    assert difference(engine.images([page()]), reference.images([page()])) <= 1e-6
    assert difference(engine.queries(list(QUERIES)), reference.queries(list(QUERIES))) <= 1e-6


def test_the_published_size(tmp_path: Path) -> None:
    """448 pixels, 1024 visual tokens, 1030 vectors a page."""
    sizes = ColPaliSizes(side=448, vision_layers=1, layers=1)
    checkpoint = make_colpali(tmp_path / "colpali", sizes, adapter=False, image_processor=False)
    reference = ColPaliReference(checkpoint)
    found = Towers(checkpoint, side=448).vectors(page_tensors(reference, [page()]))
    assert found[0].shape[0] == 1024 + len(("<bos>", "Describe", " the", " image.", "\n"))
    assert difference(found, reference.images([page()])) <= TOLERANCE


def test_a_row_of_a_batch_equals_the_single_row(towers: Towers, reference: ColPaliReference) -> None:
    together = towers.vectors(text_tensors(reference, list(QUERIES), 192))
    alone = [towers.vectors(text_tensors(reference, [text], 192))[0] for text in QUERIES]
    assert difference(together, alone) <= 1e-6


def test_a_padded_row_equals_the_unpadded_one(towers: Towers, reference: ColPaliReference) -> None:
    for tensors in (text_tensors(reference, ["revenue"], 192), page_tensors(reference, [page()])):
        # Whatever ids lie there.
        padded = {name: tensors[name] for name in tensors}
        padded["input_ids"] = np.pad(tensors["input_ids"], ((0, 0), (0, 11)), constant_values=7)
        padded["attention_mask"] = np.pad(tensors["attention_mask"], ((0, 0), (0, 11)))
        assert difference(towers.vectors(padded), towers.vectors(tensors)) <= 1e-6


def causal(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    published = functional.scaled_dot_product_attention

    def attention(q: Any, k: Any, v: Any, mask: Any = None, enable_gqa: bool = False) -> Any:
        return published(q, k, v, is_causal=mask is not None, enable_gqa=enable_gqa)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)


def mask_from_pad_ids(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    run, real = towers.run, (tensors["input_ids"] != 0).astype(np.int32)

    def spoilt(name: str, given: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return run(name, {**given, "attention_mask": real} if name == "language_model" else given)

    monkeypatch.setattr(towers, "run", spoilt)


def scaled_visual_tokens(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    projection = towers.modules["vision_encoder"].get_submodule("projector.linear")
    for parameter in projection.parameters():
        parameter.data *= 192**0.5


def unscaled_texts(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers.modules["language_model"], "scale", 1.0)


def norms_without_the_one(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, parameter in towers.modules["language_model"].named_parameters():
        if "norm" in name:
            parameter.data -= 1


def no_positions_of_patches(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    towers.modules["vision_encoder"].get_submodule("embeddings.position_embedding").get_parameter("weight").data[:] = 0


def no_final_norm_of_siglip(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    cast(Any, towers.modules["vision_encoder"]).post_layernorm = nn.Identity()


def silu_gate(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "gelu", lambda x, approximate: functional.silu(x))


def channels_last(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    patches = tensors["patches"]
    tensors["patches"] = patches.reshape(*patches.shape[:2], 3, 196).swapaxes(-1, -2).reshape(patches.shape)


Mistake = Callable[[Towers, Tensors, pytest.MonkeyPatch], None]


@pytest.mark.parametrize(
    "mistake",
    [
        causal,
        scaled_visual_tokens,
        unscaled_texts,
        norms_without_the_one,
        no_positions_of_patches,
        no_final_norm_of_siglip,
        silu_gate,
        channels_last,
    ],
)
def test_typical_mistakes_on_pages_are_far_outside_the_tolerance(
    towers: Towers, reference: ColPaliReference, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, tensors = reference.images([page()]), page_tensors(reference, [page()])
    mistake(towers, tensors, monkeypatch)
    assert difference(towers.vectors(tensors), wanted) > 1e-2


@pytest.mark.parametrize("mistake", [causal, mask_from_pad_ids, unscaled_texts, norms_without_the_one])
def test_typical_mistakes_on_queries_are_far_outside_the_tolerance(
    towers: Towers, reference: ColPaliReference, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, tensors = reference.queries(["revenue"]), text_tensors(reference, ["revenue"], 192)
    mistake(towers, tensors, monkeypatch)
    assert difference(towers.vectors(tensors), wanted) > 1e-2


def test_graphs_give_what_the_towers_give_on_other_shapes(
    towers: Towers, reference: ColPaliReference, tmp_path: Path
) -> None:
    example = page_tensors(reference, [page(1), page(2)])
    example["visual_tokens"] = towers.run("vision_encoder", example)
    single = page_tensors(reference, [page(4)])
    single["visual_tokens"] = towers.run("vision_encoder", single)
    texts = text_tensors(reference, list(QUERIES), 192)
    for name, cases in {"vision_encoder": [single], "language_model": [single, texts]}.items():
        step = towers.steps[name]
        graph = export_graph(step, towers.modules[name], example, tmp_path / name)
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        for case in cases:
            (found,) = session.run(None, {spec.name: case[spec.name] for spec in step.inputs})
            np.testing.assert_allclose(found, towers.run(name, case), rtol=0, atol=2e-5)


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
    with pytest.raises(ExportError, match=r"1 unused: visual\.extra\.weight"):
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
        ("vision_config", "image_size", 57, "57 is no multiple of 14"),
        ("vision_config", "image_size", 448, "preparation.image.side is 56, the checkpoint needs 448"),
    ],
)
def test_configs_that_the_towers_cannot_hold_are_refused(
    checkpoint: Path, section: str, field: str, value: Any, message: str
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())["vlm_config"]
    with pytest.raises(ExportError, match=re.escape(message)):
        steps({**config, section: {**config[section], field: value}}, recipe())


def test_stored_settings_win_over_those_of_the_classes(checkpoint: Path) -> None:
    from periscope_export.backbones.paligemma.config import read_configs

    config = json.loads((checkpoint / "config.json").read_text())["vlm_config"]
    vision, language = read_configs(config)
    assert (language.head, language.theta, language.eps, vision.eps) == (256, 10000.0, 1e-6, 1e-6)
    text = {**config["text_config"], "head_dim": 64, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_theta": 5.0}}
    _, language = read_configs({**config, "text_config": text})
    assert (language.head, language.theta, language.eps) == (64, 5.0, 1e-5)
