"""jina-clip's towers against code that nobody here wrote, in PyTorch and in onnxruntime.

B rows, P patches, C bytes a patch, T tokens, S states, F rotary frequencies.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from periscope_export.errors import ExportError
from periscope_export.families.jina_clip import FAMILY
from periscope_export.families.jina_clip import steps as towers
from periscope_export.graphs.graph import export_graph
from periscope_export.models import eva02
from periscope_export.models.encoder import slopes
from periscope_export.models.heads import DenseHead
from periscope_export.models.layers import rotate
from periscope_export.models.steps import Step
from periscope_export.models.weights import check_weights, load_step
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.recipes.loading import load_recipe
from periscope_export.recipes.overrides import with_settings
from periscope_runtime.patches import patchify
from periscope_testing.jina_clip.checkpoint import JinaClipSizes, Layout, jina_clip_config, make_jina_clip
from periscope_testing.jina_clip.reference import JinaClipReference, alibi

TOLERANCE = 1e-4
RECIPE = load_recipe("jina_clip_v1")
TEXTS = ("revenue by region", "x", "The chart shows how many visitors the museum had by month, and 図表")

Made = tuple[PublishedRetriever, dict[str, Step], JinaClipReference]
Module = dict[str, nn.Module]


def opened(folder: Path) -> tuple[PublishedRetriever, dict[str, Step]]:
    retriever = open_retriever(str(folder), "jina_clip_v1")
    return retriever, {step.name: step for step in retriever.steps}


@pytest.fixture(scope="module", params=["flash", "bert"])
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = make_jina_clip(tmp_path_factory.mktemp("made") / "checkpoint", seed=7)
    return *opened(folder), JinaClipReference(folder)


@pytest.fixture
def modules(made: Made) -> Module:
    """Both towers, filled anew: a test may spoil them, but no tensor in place, which is a view of the file."""
    retriever, steps, _ = made
    return {name: load_step(step, retriever.checkpoint.weights) for name, step in steps.items()}


def pictures() -> list[Image.Image]:
    random = np.random.default_rng(3)
    return [Image.fromarray(random.integers(0, 256, (224, 224, 3), dtype=np.uint8)) for _ in range(3)]


def patches(made: Made, images: list[Image.Image]) -> Tensor:
    rows = [patchify([image], made[0].recipe.preparation.page_policy).patches_PC for image in images]
    return torch.from_numpy(np.stack(rows)[:, None])


def tokens(made: Made, texts: tuple[str, ...] = TEXTS, padding: int = 0) -> tuple[Tensor, Tensor]:
    ids = [encoding.ids for encoding in made[2].tokenizer.encode_batch(list(texts))]
    ids_BT = nn.functional.pad(torch.tensor(ids, dtype=torch.int32), (0, padding))
    return ids_BT, (ids_BT != 0).int()


@torch.inference_mode()
def image_vectors(made: Made, modules: Module, images: list[Image.Image]) -> NDArray[np.float32]:
    states_B1H = modules["vision_encoder"](patches(made, images))
    return np.asarray(DenseHead()(states_B1H, torch.ones(states_B1H.shape[:2])))


@torch.inference_mode()
def text_vectors(made: Made, modules: Module, texts: tuple[str, ...] = TEXTS, padding: int = 0) -> NDArray[np.float32]:
    ids_BT, mask_BT = tokens(made, texts, padding)
    return np.asarray(DenseHead()(modules["text_encoder"](ids_BT, mask_BT), mask_BT))


def image_error(made: Made, modules: Module) -> float:
    return float(np.abs(image_vectors(made, modules, pictures()) - made[2].images(pictures())).max())


def text_error(made: Made, modules: Module) -> float:
    return float(np.abs(text_vectors(made, modules) - made[2].texts(TEXTS)).max())


def test_images_get_the_vectors_of_timm(made: Made, modules: Module) -> None:
    assert image_error(made, modules) <= TOLERANCE / 10


def test_texts_get_the_vectors_of_transformers(tmp_path: Path, made: Made, layout: Layout) -> None:
    """In both layouts of names."""
    retriever, steps = opened(make_jina_clip(tmp_path / "checkpoint", seed=7, layout=layout))
    step = steps["text_encoder"]
    assert text_error(made, {step.name: load_step(step, retriever.checkpoint.weights)}) <= TOLERANCE / 10


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    """Nothing is missing from our reading of the names, and nothing is in them that the file does not hold."""
    config = jina_clip_config(JinaClipSizes(vision_layers=12, layers=12, heads=12, mlp=3072), 30528)
    config["text_config"]["hf_model_config_kwargs"] = {"use_flash_attn": False}
    with torch.device("meta"):
        counts = [sum(weight.numel() for weight in step.build().parameters()) for step in towers(config, RECIPE)]
    logit_scale = 1
    assert sum(counts) + logit_scale == 222_647_041


def test_a_row_of_a_batch_equals_the_single_row(made: Made, modules: Module) -> None:
    together = image_vectors(made, modules, pictures())
    alone = [image_vectors(made, modules, [image])[0] for image in pictures()]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    together = text_vectors(made, modules)
    alone = [text_vectors(made, modules, (text,))[0] for text in TEXTS]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


def test_padding_changes_nothing(made: Made, modules: Module) -> None:
    np.testing.assert_allclose(text_vectors(made, modules, padding=19), text_vectors(made, modules), rtol=0, atol=1e-6)


def test_slopes_follow_both_rules() -> None:
    """As transformers' Bloom has them; 12 are the published tower's."""
    for heads in (1, 2, 3, 6, 8, 11, 12, 16):
        np.testing.assert_allclose(slopes(heads), -alibi(heads, 2)[0, :, 0, 1].numpy(), rtol=1e-6)
    assert slopes(12)[7:10] == [2**-8, 2**-0.5, 2**-1.5]


def swapped_gate(modules: Module) -> None:
    for layer in modules["text_encoder"].encoder["layers"]:  # type: ignore[index]
        gated = layer.mlp["gated_layers"]
        gated.weight.data = torch.cat(gated.weight.data.chunk(2, dim=1)[::-1], dim=1)


def one_sided_alibi(modules: Module) -> None:
    tower: Any = modules["text_encoder"]
    both = tower.bias
    tower.bias = lambda mask: torch.where((both(mask) < 0) & future(mask.shape[1]), 0.0, both(mask))


def future(tokens: int) -> Tensor:
    return torch.ones(tokens, tokens, dtype=torch.bool).triu(1)


def slopes_of_the_next_power_of_two(modules: Module) -> None:
    tower: Any = modules["text_encoder"]
    tower.slopes_A = torch.tensor(slopes(8)[:6])


def no_token_type(modules: Module) -> None:
    tower: Any = modules["text_encoder"]
    types = tower.embeddings["token_type_embeddings"].weight
    types.data = torch.zeros_like(types)


@pytest.mark.parametrize("mistake", [swapped_gate, one_sided_alibi, slopes_of_the_next_power_of_two, no_token_type])
def test_typical_mistakes_in_texts_are_far_outside_the_tolerance(
    made: Made, modules: Module, mistake: Callable[[Module], None]
) -> None:
    mistake(modules)
    assert text_error(made, modules) > 10 * TOLERANCE


def rotated_class_token(modules: Module) -> None:
    tower: Any = modules["vision_encoder"]
    tower.angles_SF[0] = tower.angles_SF[-1]


def swapped_rows_and_columns(modules: Module) -> None:
    tower: Any = modules["vision_encoder"]
    tower.angles_SF = tower.angles_SF.roll(tower.angles_SF.shape[1] // 2, dims=1)


def interpolated_positions(modules: Module) -> None:
    """Positions as timm has them by default, and jina-clip-v2."""
    tower: Any = modules["vision_encoder"]
    tower.angles_SF = tower.angles_SF * 16 / 14


def no_learned_positions(modules: Module) -> None:
    tower: Any = modules["vision_encoder"]
    tower.pos_embed.data = torch.zeros_like(tower.pos_embed)


def biased_keys(modules: Module) -> None:
    tower: Any = modules["vision_encoder"]
    for block in tower.blocks:
        block.attn.k_proj.bias = block.attn.q_proj.bias


def unnormalised_heads(modules: Module) -> None:
    tower: Any = modules["vision_encoder"]
    for block in tower.blocks:
        block.attn.inner_attn_ln = nn.Identity()


@pytest.mark.parametrize(
    "mistake",
    [
        rotated_class_token,
        swapped_rows_and_columns,
        interpolated_positions,
        no_learned_positions,
        biased_keys,
        unnormalised_heads,
    ],
)
def test_typical_mistakes_in_images_are_far_outside_the_tolerance(
    made: Made, modules: Module, mistake: Callable[[Module], None]
) -> None:
    mistake(modules)
    assert image_error(made, modules) > 10 * TOLERANCE


def test_rotated_halves_are_far_outside_the_tolerance(
    made: Made, modules: Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eva02, "rotate_pairs", lambda x_BASU, angles_SF: rotate(x_BASU, angles_SF.unsqueeze(0)))
    assert image_error(made, modules) > 10 * TOLERANCE


def test_a_resize_without_a_crop_is_far_outside_the_tolerance(made: Made, modules: Module) -> None:
    wide = pictures()[0].resize((400, 224))
    squashed = image_vectors(made, modules, [wide.resize((224, 224), Image.Resampling.BICUBIC)])
    assert np.abs(squashed - made[2].images([wide])).max() > 10 * TOLERANCE
    cropped = image_vectors(made, modules, [wide.crop((88, 0, 312, 224))])
    assert np.abs(cropped - made[2].images([wide])).max() <= TOLERANCE


def test_graphs_give_the_towers_numbers(made: Made, modules: Module, tmp_path: Path) -> None:
    """At another number of rows and tokens than those that they were traced with."""
    ids_BT, mask_BT = tokens(made)
    more_BT, more_mask_BT = tokens(made, TEXTS[1:2], padding=5)
    examples = {
        "vision_encoder": ([patches(made, pictures())], [patches(made, pictures()[:1])]),
        "text_encoder": ([ids_BT, mask_BT], [more_BT, more_mask_BT]),
    }
    for name, (traced, other) in examples.items():
        step = made[1][name]
        inputs = [spec.name for spec in step.inputs]
        example = {key: value.numpy() for key, value in zip(inputs, traced, strict=True)}
        graph = export_graph(step, modules[name], example, tmp_path / name)
        session = onnxruntime.InferenceSession(graph)
        for tensors in (traced, other):
            feed = {key: value.numpy() for key, value in zip(inputs, tensors, strict=True)}
            with torch.inference_mode():
                wanted = modules[name](*tensors)
            np.testing.assert_allclose(session.run(None, feed)[0], wanted, rtol=0, atol=TOLERANCE)


# Section, field, its value, and what the message says of it.
BROKEN = [
    ("vision_config", "pt_hw_seq_len", 16, r"pt_hw_seq_len is 16, and the image has 14 x 14 patches"),
    ("vision_config", "subln", None, r"vision_config.subln is None, not True"),
    ("vision_config", "width", None, r"vision_config.width is missing"),
    ("vision_config", "mlp_ratio", None, r"vision_config.mlp_ratio is missing"),
    ("vision_config", "post_norm", True, r"vision_config.post_norm is True, not null"),
    ("vision_config", "embed_dim", 512, r"embed_dim 512"),
    ("text_config", "pooler_type", "cls_pooler", r"pooler_type is 'cls_pooler'"),
    (
        "text_config",
        "hf_model_name_or_path",
        "jinaai/jina-embeddings-v3",
        r"this is a jina-clip-v2 .*, not a jina-clip-v1",
    ),
    ("text_config", "hf_model_name_or_path", "jinaai/jina-bert-v3", r"is 'jinaai/jina-bert-v3', not one of"),
    ("text_config", "hf_model_config_kwargs", {"use_qk_norm": True}, r"use_qk_norm is True, not False"),
]


@pytest.mark.parametrize(("section", "field", "value", "message"), BROKEN)
def test_another_architecture_is_refused(section: str, field: str, value: Any, message: str) -> None:
    config = jina_clip_config(JinaClipSizes(), 400)
    config[section][field] = value
    with pytest.raises(ExportError, match=message):
        towers(config, RECIPE)


def test_another_image_size_than_the_recipe_s_is_refused() -> None:
    with pytest.raises(ExportError, match=r"images have 196 patches after padding, and .* takes 256"):
        towers(jina_clip_config(JinaClipSizes(side=256), 400), RECIPE)


def test_a_causal_text_tower_is_refused() -> None:
    with pytest.raises(ExportError, match=r"attention is 'causal', .* Set attention=bidirectional"):
        towers(jina_clip_config(JinaClipSizes(), 400), with_settings(RECIPE, {"attention": "causal"}))


def test_unknown_names_are_listed(made: Made) -> None:
    weights = made[0].checkpoint.weights
    config = jina_clip_config(JinaClipSizes(), made[2].tokenizer.get_vocab_size(), "bert")
    with pytest.raises(ExportError, match=r"missing: .*mixer\.key\.bias.*unused: .*mixer\.Wqkv\.bias"):
        check_weights(towers(config, RECIPE), weights, FAMILY.unused)
