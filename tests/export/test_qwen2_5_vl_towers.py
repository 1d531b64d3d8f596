"""Qwen2.5-VL's towers against transformers, over grids that fill windows and that do not, and as graphs.

G rows of images of an item, V visual tokens, T tokens.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from export.shapes import Shapes, shapes_of
from periscope_export.checkpoint.reading import Checkpoint, open_checkpoint
from periscope_export.engines.engine import Options
from periscope_export.engines.tensorrt_builder import build_engine, load_builder
from periscope_export.errors import ExportError
from periscope_export.families.qwen2_5_vl import FAMILY, read
from periscope_export.graphs import cuda, openvino
from periscope_export.graphs.graph import export_graph, module_runner
from periscope_export.graphs.precision import at, cast
from periscope_export.models.steps import Step
from periscope_export.models.weights import check_weights, load_step
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings
from periscope_export.repository.profiles import step_profiles
from periscope_runtime.image_rows import image_rows, window_places
from periscope_runtime.lengths import Range, item_lengths, window_slots
from periscope_runtime.patches import Patches, patch_positions
from periscope_testing.torchvision_operators import declare_torchvision_operators

declare_torchvision_operators()
TOLERANCE = 1e-5
RECIPE = with_settings(load_recipe("colqwen2"), {"preparation.image.window_size": 112})
# Rows and columns of visual tokens: whole windows, partial ones at both edges, sides below a window.
GRIDS = {
    "whole": [(4, 8)],
    "partial": [(5, 7)],
    "small": [(1, 3), (2, 2)],
    "narrow": [(1, 13)],
    "one side whole": [(8, 6)],
    "several": [(5, 7), (4, 4), (1, 1), (3, 9)],
}
Tensors = dict[str, NDArray[Any]]


class Built(NamedTuple):
    """Towers, their checkpoint, and the published model."""

    checkpoint: Checkpoint
    steps: tuple[Step, ...]
    vision: nn.Module
    language: nn.Module
    model: Any


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

    torch.manual_seed(3)
    vision = {"depth": 2, "hidden_size": 160, "num_heads": 2, "intermediate_size": 84, "out_hidden_size": 256}
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    text: dict[str, Any] = {
        "hidden_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    text |= {"intermediate_size": 96, "vocab_size": 300, "rms_norm_eps": 1e-6}
    config = Qwen2_5_VLConfig(
        vision_config={**vision, "fullatt_block_indexes": [1], "window_size": 112},
        text_config={**text, "rope_parameters": rope},
        image_token_id=7,
    )
    model = Qwen2_5_VLModel(config).eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name or "ln_q" in name else 0.0, 0.05)
    folder = tmp_path_factory.mktemp("qwen2_5")
    model.save_pretrained(folder)
    checkpoint = open_checkpoint(str(folder), None, canonical=FAMILY.canonical, revision=None)
    steps = FAMILY.steps(checkpoint.config, RECIPE)
    check_weights(steps, checkpoint.weights, FAMILY.unused)
    vision_encoder, language_model = (load_step(step, checkpoint.weights) for step in steps)
    return Built(checkpoint, steps, vision_encoder, language_model, model)


def patches_of(grids: list[tuple[int, int]], seed: int = 0) -> Patches:
    count = sum(4 * rows * columns for rows, columns in grids)
    bytes_PC = np.random.default_rng(seed).integers(0, 256, (count, 1176), dtype=np.uint8)
    return Patches(bytes_PC, np.concatenate([patch_positions(*grid, 2) for grid in grids]), tuple(grids), 2, 4)


def rows_of(*items: list[tuple[int, int]]) -> Tensors:
    return dict(image_rows([patches_of(grids, seed) for seed, grids in enumerate(items)], 128))


@torch.inference_mode()
def wanted(built: Built, grids: list[tuple[int, int]], seed: int = 0) -> NDArray[np.float32]:
    """Visual tokens [V, H] of the published tower."""
    image = RECIPE.preparation.page_policy
    mean, std = (np.repeat(np.array(values), 392) for values in (image.mean, image.std))
    pixels = torch.from_numpy((patches_of(grids, seed).patches_PC / 255 - mean) / std).to(torch.float32)
    sizes = torch.tensor([[1, 2 * rows, 2 * columns] for rows, columns in grids])
    found: NDArray[np.float32] = built.model.visual(pixels, grid_thw=sizes).pooler_output.numpy()
    return found


def found(built: Built, tensors: Tensors) -> NDArray[np.float32]:
    return module_runner(at(built.steps[0], "fp32"), built.vision)("", tensors)["visual_tokens"]


@pytest.mark.parametrize("name", GRIDS)
def test_images_get_the_published_visual_tokens(built: Built, name: str) -> None:
    right = wanted(built, GRIDS[name])
    assert np.abs(found(built, rows_of(GRIDS[name]))[0, : len(right)] - right).max() <= TOLERANCE


def test_a_row_of_a_batch_is_the_single_row(built: Built) -> None:
    """Several items, of which each has rows of its own: padding takes part."""
    items = list(GRIDS.values())
    together = found(built, rows_of(*items))
    for seed, grids in enumerate(items):
        right = wanted(built, grids, seed)
        assert np.abs(together[seed, : len(right)] - right).max() <= TOLERANCE


@torch.inference_mode()
def test_tokens_get_the_published_states(built: Built) -> None:
    """Three different rows of positions."""
    ids = torch.randint(8, 300, (2, 11))
    positions = torch.randint(0, 40, (3, 2, 11))
    right = built.model.language_model(input_ids=ids, position_ids=positions, attention_mask=None).last_hidden_state
    states = built.language(ids.int(), positions.transpose(0, 1).int(), torch.zeros(2, 0, 256))
    assert (states - right).abs().max() <= TOLERANCE


def unpermuted(tensors: Tensors) -> None:
    tensors["visual_index"] = np.sort(tensors["visual_index"])


def padding_seen(tensors: Tensors) -> None:
    tensors["patch_segments"][:] = 0


def row_by_row(tensors: Tensors) -> None:
    """Windows of tokens that lie in one row."""
    first = patches_of(GRIDS["partial"])
    tensors["patches"][0, 0, : len(first.patches_PC)] = first.patches_PC
    tensors["patch_positions"][0, 0, : len(first.patches_PC)] = first.positions_P2
    tensors["patch_segments"][:] = np.where(np.arange(tensors["patches"].shape[2]) < len(first.patches_PC), 0, -1)
    tensors["visual_index"][0, :35] = np.arange(35)


@pytest.mark.parametrize("mistake", [unpermuted, padding_seen, row_by_row])
def test_typical_mistakes_are_far_outside_the_tolerance(built: Built, mistake: Callable[[Tensors], None]) -> None:
    tensors, right = rows_of(GRIDS["partial"]), wanted(built, GRIDS["partial"])
    mistake(tensors)
    assert np.abs(found(built, tensors)[0, : len(right)] - right).max() > 100 * TOLERANCE


@pytest.fixture(scope="module")
def graph(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written with one shape: two items of several rows of images."""
    step = at(built.steps[0], "fp32")
    return export_graph(step, built.vision, written(step), tmp_path_factory.mktemp("graph"))


def written(step: Step) -> Tensors:
    tensors = rows_of(GRIDS["several"], GRIDS["partial"])
    assert tensors["patches"].shape[1] > 1
    return {spec.name: tensors[spec.name] for spec in step.inputs}


@pytest.mark.parametrize("form", ["onnxruntime", "cuda", "openvino"])
def test_a_graph_gives_what_its_tower_gives(built: Built, graph: Path, form: str, tmp_path: Path) -> None:
    """At other shapes, in the forms of the engines: padding of partial windows lies between patches."""
    if form == "cuda":
        shutil.copytree(graph.parent, tmp_path / "cuda")
        graph = cuda.convert(tmp_path / "cuda" / graph.name)
    for items in ([GRIDS["partial"]], [GRIDS["narrow"], GRIDS["small"], GRIDS["whole"]]):
        tensors = {spec.name: rows_of(*items)[spec.name] for spec in built.steps[0].inputs}
        if form == "openvino":
            compiled = openvino.core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            (tokens,) = compiled(tensors).values()
        else:
            session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
            (tokens,) = session.run(None, tensors)
        np.testing.assert_allclose(tokens, found(built, tensors), rtol=0, atol=TOLERANCE)


def test_every_attention_is_fused(built: Built, tmp_path: Path) -> None:
    step = at(built.steps[0], "fp16")
    module = cast(load_step(built.steps[0], built.checkpoint.weights), "fp16")
    graph = export_graph(step, module, written(step), tmp_path / "vision_encoder" / "1")
    paths = {path: Range(1, 64) for path in RECIPE.paths}
    profiles = step_profiles(step, RECIPE, item_lengths(RECIPE.preparation, paths), 256)
    assert build_engine(load_builder("tensorrt-rtx"), graph, profiles, Options()).attention_layers == 2


def test_places_fill_windows_from_their_beginning() -> None:
    for rows, columns in [(5, 7), (4, 8), (1, 1), (9, 3)]:
        places = window_places(rows, columns, 4).reshape(rows, columns)
        for top, left in np.ndindex(math.ceil(rows / 4), math.ceil(columns / 4)):
            inside = np.sort(places[4 * top : 4 * top + 4, 4 * left : 4 * left + 4].reshape(-1))
            assert inside.tolist() == list(range(inside[0], inside[0] + inside.size))
            assert inside[0] == 16 * (top * math.ceil(columns / 4) + left)
        assert places.max() < window_slots(rows, columns, 4)
    assert window_places(3, 5, 1).tolist() == list(range(15))


@pytest.mark.parametrize("size", ["3B", "7B"])
def test_published_configs_are_read_with_what_they_leave_out(size: str) -> None:
    """The towers have every weight of transformers' class, which fills in its own defaults."""
    folder = Path(__file__).parent / "published" / f"Qwen2.5-VL-{size}-Instruct"
    config = json.loads((folder / "config.json").read_text())
    shapes = Shapes(shapes_of(config), FAMILY.canonical)
    steps = FAMILY.steps(config, RECIPE)
    check_weights(steps, shapes, FAMILY.unused)
    width = config["hidden_size"]
    # The vision part as transformers 4.49 writes it.
    left = {"hidden_size": 1280, "in_chans": 3, "model_type": "qwen2_5_vl", "tokens_per_second": 2}
    left |= {} if width == 3584 else {"out_hidden_size": width}
    assert read({**config, "vision_config": left}) == read(config)
    assert read({**config, "model_type": "jina_embeddings_v4"}) == read(config)
    with pytest.raises(ExportError, match=r"fullatt_block_indexes \[32\] are not blocks of 32"):
        read({**config, "vision_config": {**left, "fullatt_block_indexes": [32]}})
    with pytest.raises(ExportError, match=r"this is a Qwen2-VL .*, not a Qwen2\.5-VL"):
        read({**config, "model_type": "qwen2_vl"})


def test_a_merger_without_a_norm_is_refused(built: Built) -> None:
    """As colqwen2.5-base is said to be published: all images would be alike."""
    weights = built.checkpoint.weights
    zero = weights.having("visual.merger.ln_q.weight", weights.info("visual.merger.ln_q.weight"), zeros, "ln_q")
    with pytest.raises(ExportError, match="ln_q is all zero"):
        load_step(built.steps[0], zero)


def zeros() -> torch.Tensor:
    return torch.zeros(160)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("preparation.image.window_size", 28, r"window_size is 28, .* windows of 112 pixels"),
        ("preparation.image.window_size", 56, r"window_size is 56, .* Set preparation.image.window_size=112"),
        ("preparation.buckets.patches", 96, r"buckets.patches is 96, .* Set a multiple of 64"),
    ],
)
def test_recipes_whose_patches_these_windows_cannot_take(built: Built, field: str, value: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        FAMILY.steps(built.checkpoint.config, with_settings(RECIPE, {field: value}))


@torch.inference_mode()
def test_the_recipe_decides_what_tokens_see(built: Built) -> None:
    """Against the published layers with a mask of their own, in which every real token sees every other."""
    recipe = RECIPE.model_copy(update={"attention": "bidirectional"})
    step = FAMILY.steps(built.checkpoint.config, recipe)[1]
    assert step.inputs[-1].name == "attention_mask"
    assert not step.keeps_prefixes
    module = load_step(step, built.checkpoint.weights)
    ids, positions = torch.randint(8, 300, (1, 9)), torch.arange(9).expand(3, 1, -1)
    seen = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    text = built.model.language_model
    masks = {"full_attention": seen}
    right = text(input_ids=ids, position_ids=positions, attention_mask=masks).last_hidden_state
    nothing = torch.zeros(1, 0, 256)
    # Padding is seen by nobody.
    padded = nn.functional.pad(ids, (0, 4)), nn.functional.pad(positions.transpose(0, 1), (0, 4))
    mask = nn.functional.pad(torch.ones(1, 9), (0, 4))
    states = module(padded[0].int(), padded[1].int(), nothing, mask.int())[:, :9]
    assert (states - right).abs().max() <= TOLERANCE
    causal = built.language(ids.int(), positions.transpose(0, 1).int(), nothing)
    assert (states - causal).abs().max() > 100 * TOLERANCE
