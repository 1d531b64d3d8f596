"""Towers of Qwen3-VL against transformers' modules, in PyTorch and as graphs: images, videos, texts, several in a row.

B rows, P patches, V visual tokens, T tokens, H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from e2e.pages import draw_page
from export.conftest import TracedQwen3VL
from export.qwen3_vl_rows import (
    Built,
    Tensors,
    build,
    joined,
    largest,
    load,
    prepared,
    published,
    wanted,
    with_visual_tokens,
)
from periscope_export.families.qwen3_vl import PositionTable, interleaved_axes
from periscope_export.graphs.graph import module_runner
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes

TOLERANCE = 1e-4

# Items of one row, and what each shows: a page, two pages with other grids, three pairs of frames, text alone.
FRAMES = [draw_page(300, 200, seed) for seed in range(5)]
ITEMS: dict[str, dict[str, Any]] = {
    "page": {"image": draw_page(330, 200, 1)},
    "page and text": {"image": draw_page(90, 500, 2), "text": "revenue by region"},
    "two pages": {"images": [draw_page(150, 220, 3), draw_page(400, 70, 4)], "text": "compare"},
    "video": {"video": FRAMES},
    "video and page": {"video": FRAMES[:2], "image": draw_page(70, 70, 5)},
    "text": {"text": "how many visitors"},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qwen3") / "checkpoint"


@pytest.fixture(scope="module")
def built(checkpoint: Path) -> Built:
    return build(checkpoint)


@pytest.mark.parametrize("name", ITEMS)
def test_towers_give_the_published_states(built: Built, name: str) -> None:
    inputs = published(built.reference, ITEMS[name])
    assert largest(built.run(prepared(built.reference, inputs)), wanted(built.reference, inputs)) <= TOLERANCE


@pytest.mark.parametrize("words", [("final_norm",), ("deepstack",), ("final_norm", "deepstack")])
def test_what_a_recipe_leaves_out_is_in_no_tower(checkpoint: Path, built: Built, words: tuple[str, ...]) -> None:
    """nemotron-colembed-v2 ends before the last norm, U-MARVEL on Qwen3-VL adds nothing of DeepStack.

    Against the published modules without what they do then. The weights of both stay in the file.
    """
    less = load(checkpoint, built.reference, **dict.fromkeys(words, False))
    inputs = published(built.reference, ITEMS["page and text"])
    published_model, seen = built.reference.model.language_model, list[torch.Tensor]()

    def no_levels(_: nn.Module, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, {**named, "deepstack_visual_embeds": None}

    hooks = [published_model.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))]
    if "deepstack" in words:
        hooks.append(published_model.register_forward_pre_hook(no_levels, with_kwargs=True))
    right = wanted(built.reference, inputs)
    for hook in hooks:
        hook.remove()
    if "final_norm" in words:
        right["hidden_states"] = seen[0].numpy()
    if "deepstack" in words:
        right["visual_tokens"] = right["visual_tokens"][..., : right["hidden_states"].shape[-1]]
    found = less.run(prepared(built.reference, inputs))
    assert largest(found, right) <= TOLERANCE
    assert np.abs(found["hidden_states"] - wanted(built.reference, inputs)["hidden_states"]).max() > 30 * TOLERANCE


def test_other_sizes_work(tmp_path: Path) -> None:
    """Heads narrower together than the model, ungrouped, other and fewer levels, bf16 weights, one shard."""
    sizes = Qwen3VLSizes(
        vision_layers=4,
        vision_heads=3,
        levels=(1, 2),
        layers=2,
        width=320,
        kv_heads=2,
        tied=False,
        dtype=torch.bfloat16,
        shards=1,
    )
    built = build(tmp_path / "checkpoint", sizes)
    inputs = published(built.reference, ITEMS["page and text"])
    assert largest(built.run(prepared(built.reference, inputs)), wanted(built.reference, inputs)) <= TOLERANCE


def test_a_padded_row_of_a_batch_equals_the_single_row(built: Built) -> None:
    rows = [
        prepared(built.reference, published(built.reference, ITEMS[name])) for name in ("page", "video", "two pages")
    ]
    found = built.run(joined(rows))
    for index, row in enumerate(rows):
        alone = built.run(row)
        together = {name: found[name][index : index + 1, : alone[name].shape[1]] for name in alone}
        assert largest(together, alone) <= 1e-5


@contextmanager
def changed(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def flat_positions(built: Built, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    tensors["position_ids"][:] = np.arange(tensors["position_ids"].shape[-1])
    return built.run(tensors)


def without_deepstack(built: Built, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    visual = module_runner(built.vision_step, built.vision)("", tensors)["visual_tokens"]
    width = built.reference.model.config.text_config.hidden_size
    visual[..., width:] = 0
    return module_runner(built.language_step, built.language)("", {**tensors, "visual_tokens": visual})


def contiguous_sections(built: Built, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    axes = torch.tensor([0] * 24 + [1] * 20 + [2] * 20)
    with changed(built.language.rotation, "axis_F", axes):
        return built.run(tensors)


def half_pixel_table(built: Built, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    """Torch's default: pixel centres on pixel centres."""
    square = built.vision.pos_embed.weight.T.reshape(1, -1, 48, 48)

    class HalfPixels(nn.Module):
        def forward(self, positions: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
            rows, columns = grids[0, 0].tolist()
            resized = functional.interpolate(square, (rows, columns), mode="bilinear")[0]
            return resized[:, positions[0, :, 0], positions[0, :, 1]].T[None]

    with changed(built.vision, "pos_embed", HalfPixels()):
        return built.run(tensors)


def swapped_grid(built: Built, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    tensors["patch_grids"] = tensors["patch_grids"][..., ::-1]
    return built.run(tensors)


def one_image(built: Built, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
    return built.run(in_one_row(tensors))


def in_one_row(tensors: Tensors) -> Tensors:
    """All images of an item in one row, which leaves their visual tokens in their places."""
    return {
        name: value.reshape(1, 1, -1, *value.shape[3:]) if name.startswith("patch") else value
        for name, value in tensors.items()
    }


def test_images_may_share_a_row(built: Built) -> None:
    tensors = prepared(built.reference, published(built.reference, ITEMS["video and page"]))
    shared = in_one_row(tensors)
    images, patches = tensors["patches"].shape[1:3]
    padding = shared["patch_segments"] < 0
    assert padding.any()
    shared["patch_segments"] = np.where(padding, -1, np.repeat(np.arange(images), patches))
    assert largest(built.run(shared), built.run(tensors)) <= 1e-5


@pytest.mark.parametrize(
    ("item", "mistake"),
    [
        ("page", flat_positions),
        ("page", without_deepstack),
        ("page", contiguous_sections),
        ("page", half_pixel_table),
        ("page", swapped_grid),
        ("video", one_image),
    ],
)
def test_typical_mistakes_are_far_outside_the_tolerance(
    built: Built, item: str, mistake: Callable[[Built, Tensors], dict[str, NDArray[np.float32]]]
) -> None:
    """Seen in the last token, which is all that is served."""
    tensors = prepared(built.reference, published(built.reference, ITEMS[item]))
    right = built.run({name: value.copy() for name, value in tensors.items()})["hidden_states"][:, -1]
    wrong = mistake(built, tensors)["hidden_states"][:, -1]
    assert np.abs(right - wrong).max() > 30 * TOLERANCE


def test_the_table_is_laid_corner_on_corner() -> None:
    """Against torch's own interpolation, for grids smaller and larger than the table, and for one row of patches."""
    table = PositionTable(6, 8)
    nn.init.normal_(table.weight)
    for rows, columns in ((2, 4), (1, 5), (6, 6), (11, 3)):
        positions = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))[None]
        found = table(positions, torch.tensor([rows, columns]).expand_as(positions))
        square = table.weight.T.reshape(1, 8, 6, 6)
        resized = functional.interpolate(square, (rows, columns), mode="bilinear", align_corners=True)
        torch.testing.assert_close(found, resized.flatten(2).transpose(1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["vision", "language"])
def test_a_graph_gives_what_its_tower_gives(traced: TracedQwen3VL, name: str) -> None:
    """Written with one shape, run with others: another grid, more rows, no visual token."""
    one, built = getattr(traced, name), traced.built

    def tensors(*items: str) -> Tensors:
        batch = joined([prepared(built.reference, published(built.reference, ITEMS[item])) for item in items])
        batch = with_visual_tokens(built.language_step, {**batch, **built.run(batch)})
        return {spec.name: batch[spec.name].astype(spec.dtype) for spec in one.step.inputs}

    session = onnxruntime.InferenceSession(one.graph, providers=["CPUExecutionProvider"])
    others = [("video",), ("two pages", "video", "page"), *([("text",)] if name == "language" else [])]
    for items in others:
        inputs = tensors(*items)
        (found,) = session.run(None, inputs)
        right = module_runner(one.step, one.module)("", inputs)[one.step.outputs[0].name]
        np.testing.assert_allclose(found, right, rtol=0, atol=TOLERANCE)


def test_axes_of_the_published_sections() -> None:
    """The indices that the model's description lists."""
    axes = interleaved_axes((24, 20, 20))
    assert axes == [(0, 1, 2)[index % 3] if index < 60 else 0 for index in range(64)]
