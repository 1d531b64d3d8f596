"""SigLIP, Gemma and the late head against transformers and colpali-engine, in PyTorch and as graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from export.paligemma_towers import Tensors, Towers, difference, page, page_tensors, text_tensors
from periscope_export.graphs.graph import export_graph
from periscope_export.models.decoder import DecoderBlock
from periscope_export.models.layers import ShiftedRMSNorm
from periscope_testing.colpali.checkpoint import ColPaliSizes, Layout, make_colpali
from periscope_testing.colpali.reference import ColPaliReference

TOLERANCE = 1e-5
QUERIES = ("revenue by region", "x", "Wie viele Seiten? " * 5)


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
    found = Towers(checkpoint).vectors(page_tensors(reference, [page()]))
    assert found[0].shape[0] == 1024 + len(("<bos>", "Describe", " the", " image.", "\n"))
    assert difference(found, reference.images([page()])) <= TOLERANCE


def test_a_row_of_a_batch_equals_the_single_row(towers: Towers, reference: ColPaliReference) -> None:
    together = towers.vectors(text_tensors(reference, list(QUERIES), 192))
    alone = [towers.vectors(text_tensors(reference, [text], 192))[0] for text in QUERIES]
    assert difference(together, alone) <= 1e-6


def test_a_padded_row_equals_the_unpadded_one(towers: Towers, reference: ColPaliReference) -> None:
    for tensors in (text_tensors(reference, ["revenue"], 192), page_tensors(reference, [page()])):
        # With any ids there.
        padded = {name: tensors[name] for name in tensors}
        padded["input_ids"] = np.pad(tensors["input_ids"], ((0, 0), (0, 11)), constant_values=7)
        padded["position_ids"] = np.pad(tensors["position_ids"], ((0, 0), (0, 0), (0, 11)))
        padded["attention_mask"] = np.pad(tensors["attention_mask"], ((0, 0), (0, 11)))
        assert difference(towers.vectors(padded), towers.vectors(tensors)) <= 1e-6


def test_attention_may_be_causal(checkpoint: Path, reference: ColPaliReference) -> None:
    """Against transformers' Gemma with a causal mask, which it does not have inside a PaliGemma."""
    tensors = text_tensors(reference, [QUERIES[2]], 192)
    del tensors["attention_mask"]
    found = Towers(checkpoint, attention="causal").run("language_model", tensors)
    ids_BT = torch.from_numpy(tensors["input_ids"])
    mask_11TT = torch.ones(1, 1, ids_BT.shape[1], ids_BT.shape[1], dtype=torch.bool).tril()
    with torch.inference_mode():
        right = reference.model.vlm.language_model(ids_BT, attention_mask=mask_11TT).last_hidden_state
    np.testing.assert_allclose(found, right, rtol=0, atol=TOLERANCE)


def causal(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    published = functional.scaled_dot_product_attention

    def attention(q: Any, k: Any, v: Any, mask: Any = None, is_causal: bool = False, enable_gqa: bool = False) -> Any:
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
    towers.modules["vision_encoder"].get_parameter("positions").data[:] = 0


def no_final_norm_of_siglip(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    cast(Any, towers.modules["vision_encoder"]).last_norm = nn.Identity()


def silu_gate(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in towers.modules["language_model"].modules():
        if isinstance(module, DecoderBlock):
            module.activation = functional.silu


def channels_last(towers: Towers, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> None:
    patches = tensors["patches"]
    tensors["patches"] = patches.reshape(*patches.shape[:-1], 3, 196).swapaxes(-1, -2).reshape(patches.shape)


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


def test_the_one_of_the_norms_is_added_in_float32() -> None:
    """In bf16 the sum of one and a small weight is one."""
    norm, x = ShiftedRMSNorm(64, 1e-6), torch.randn(5, 64)
    norm.weight.data[:] = 0.001 * torch.randn(64)
    norm.weight.data[:] = norm.weight.to(torch.bfloat16)
    exact = norm(x)
    norm.weight.data = norm.weight.to(torch.bfloat16)
    torch.testing.assert_close(norm(x), exact, rtol=0, atol=0)
