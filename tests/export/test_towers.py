"""Towers and heads against the published implementation, in PyTorch, for every layout that checkpoints come in."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from periscope_export.fidelity.record import Golden, run_step
from periscope_export.graphs.graph import module_runner
from periscope_export.models.heads import MaxSim
from periscope_export.models.towers import Towers
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.repository.writing import write_preparation
from periscope_runtime.collate import collate
from periscope_runtime.completion import completed
from periscope_runtime.prepare import Preparer
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.colqwen2.layout import Layout
from periscope_testing.colqwen2.reference import ColQwen2Reference
from periscope_testing.qwen2_vl import Qwen2VLSizes

TOLERANCE = 1e-4
SIZES = Qwen2VLSizes(vision_layers=1, language_layers=2)
QUERY = "revenue by region"

Change = Callable[[Golden], None]


def page() -> Image.Image:
    random = np.random.default_rng(3)
    return Image.fromarray(random.integers(0, 256, (150, 220, 3), dtype=np.uint8))


def towers(retriever: PublishedRetriever, folder: Path, change: Change = lambda tensors: None) -> Golden:
    """Every tensor between image bytes and vectors, computed by the towers; `change` spoils the inputs first."""
    preparer = Preparer(write_preparation(folder, "r", retriever.recipe, retriever.tokenizer)["text"])
    file = io.BytesIO()
    page().save(file, "PNG")
    buckets = preparer.preparation.buckets
    tensors: Golden = {
        "text": collate([preparer.text(QUERY.encode())], buckets),
        "image": collate([preparer.image(file.getvalue())], buckets),
    }
    wanted = {spec.name: spec.wanted for step in retriever.steps for spec in step.inputs}
    tensors = {path: completed(of, wanted, retriever.width) for path, of in tensors.items()}
    change(tensors)
    filled = Towers(retriever.steps, retriever.checkpoint.weights)
    for step in retriever.steps:
        run = module_runner(step, filled[step.name])
        for path in (path for path in step.paths if path.sides or path.name in tensors):
            run_step(step.name, path.name, tensors, run)
    return tensors


def vectors(tensors: Golden, path: str) -> NDArray[np.float32]:
    real: NDArray[np.float32] = tensors[path]["late"][0][tensors[path]["late_mask"][0] > 0]
    return real


def largest_difference(tensors: Golden, reference: ColQwen2Reference) -> float:
    wanted = {"image": reference.images([page()])[0], "text": reference.queries([QUERY])[0]}
    return max(float(np.abs(vectors(tensors, path) - wanted[path]).max()) for path in wanted)


# The published code itself cannot load DoRA under the old names.
@pytest.mark.parametrize(
    ("layout", "adapter"),
    [
        ("engine-old", "lora"),
        ("engine-old", None),
        ("engine-new", "lora"),
        ("engine-new", "dora"),
        ("engine-new", None),
    ],
)
def test_towers_give_the_published_vectors(
    tmp_path: Path, layout: Layout, adapter: Literal["lora", "dora"] | None
) -> None:
    checkpoint = make_colqwen2(tmp_path / "checkpoint", SIZES, seed=5, layout=layout, adapter=adapter)
    tensors = towers(open_retriever(str(checkpoint), "colqwen2"), tmp_path / "r")
    assert largest_difference(tensors, ColQwen2Reference(checkpoint)) <= TOLERANCE


def test_the_layout_of_transformers_gives_the_vectors_of_its_own_class(tmp_path: Path) -> None:
    from transformers import ColQwen2ForRetrieval

    checkpoint = make_colqwen2(tmp_path / "hf", SIZES, seed=5, layout="transformers", adapter=None)
    model, report = ColQwen2ForRetrieval.from_pretrained(checkpoint, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values()), report
    same = ColQwen2Reference(make_colqwen2(tmp_path / "engine", SIZES, seed=5, layout="engine-new", adapter=None))
    inputs = same.image_inputs([page()])
    with torch.inference_mode():
        # Its own position ids are one-dimensional in this version of transformers.
        wanted = model.eval()(**inputs, position_ids=same.position_ids(inputs)).embeddings[0]
    tensors = towers(open_retriever(str(checkpoint), "colqwen2"), tmp_path / "r")
    assert np.abs(vectors(tensors, "image") - wanted.numpy()).max() <= TOLERANCE


def test_what_today_s_classes_save_can_be_exported(tmp_path: Path) -> None:
    """Saved again by colpali-engine on transformers 5: one more layout of names, config and processor files."""
    reference = ColQwen2Reference(make_colqwen2(tmp_path / "made", SIZES, seed=6, adapter=None))
    reference.model.save_pretrained(tmp_path / "saved")
    reference.processor.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "preprocessor_config.json").exists(), "this layout is no longer another one"
    retriever = open_retriever(str(tmp_path / "saved"), "colqwen2")
    assert largest_difference(towers(retriever, tmp_path / "r"), reference) <= TOLERANCE


def sequential_positions(tensors: Golden) -> None:
    positions = tensors["image"]["position_ids"]
    positions[:] = np.arange(positions.shape[-1])


def swapped_rows_and_columns(tensors: Golden) -> None:
    tensors["image"]["patch_positions"] = tensors["image"]["patch_positions"][..., ::-1]


def padding_seen_by_the_vision_tower(tensors: Golden) -> None:
    tensors["image"]["patch_segments"][:] = 0


def channels_last(tensors: Golden) -> None:
    patches = tensors["image"]["patches"]
    tensors["image"]["patches"] = patches.reshape(*patches.shape[:-1], 6, 196).swapaxes(-1, -2).reshape(patches.shape)


@pytest.mark.parametrize(
    "mistake", [sequential_positions, swapped_rows_and_columns, padding_seen_by_the_vision_tower, channels_last]
)
def test_typical_mistakes_are_far_outside_the_tolerance(tmp_path: Path, mistake: Change) -> None:
    checkpoint = make_colqwen2(tmp_path / "checkpoint", SIZES, seed=5)
    tensors = towers(open_retriever(str(checkpoint), "colqwen2"), tmp_path / "r", mistake)
    assert largest_difference(tensors, ColQwen2Reference(checkpoint)) > 10 * TOLERANCE


def test_an_adapter_changes_all_projections_of_all_layers(tmp_path: Path) -> None:
    retriever = open_retriever(str(make_colqwen2(tmp_path / "checkpoint", SIZES)), "colqwen2")
    projections = [f"self_attn.{name}_proj" for name in "qkvo"] + [
        f"mlp.{name}_proj" for name in ("gate", "up", "down")
    ]
    wanted = {f"language_model.layers.{layer}.{name}.weight" for layer in range(2) for name in projections}
    assert retriever.checkpoint.weights.adapted() == wanted | {"late_head.projection.weight"}


def test_maxsim_equals_its_loop() -> None:
    """The slow twin: for each query token the best real document token, summed."""
    random = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(3, 5, 8, generator=random), torch.randn(4, 7, 8, generator=random)
    query_mask, document_mask = torch.ones(3, 5, dtype=torch.int32), torch.ones(4, 7, dtype=torch.int32)
    query_mask[1, 3:], document_mask[2, 1:] = 0, 0
    wanted = torch.zeros(3, 4)
    for query, query_real, row in zip(queries, query_mask, wanted, strict=True):
        for place, (document, document_real) in enumerate(zip(documents, document_mask, strict=True)):
            for token in query[query_real > 0]:
                row[place] += max(float(token @ other) for other in document[document_real > 0])
    torch.testing.assert_close(MaxSim()(queries, query_mask, documents, document_mask), wanted)


def test_other_head_widths_work(tmp_path: Path) -> None:
    """Nothing is tied to the published widths: fewer and more heads, another MLP."""
    sizes = replace(SIZES, heads=3, kv_heads=3, vision_heads=1, mlp=96)
    checkpoint = make_colqwen2(tmp_path / "checkpoint", sizes, adapter=None)
    tensors = towers(open_retriever(str(checkpoint), "colqwen2"), tmp_path / "r")
    assert largest_difference(tensors, ColQwen2Reference(checkpoint)) <= TOLERANCE


def test_faint_activations_show_the_epsilons(tmp_path: Path) -> None:
    """With weights this small the variances come near the epsilon of a norm: another epsilon is another vector."""
    sizes = replace(SIZES, deviation=0.001)
    checkpoint = make_colqwen2(tmp_path / "checkpoint", sizes, adapter=None)
    retriever = open_retriever(str(checkpoint), "colqwen2")
    assert largest_difference(towers(retriever, tmp_path / "r"), ColQwen2Reference(checkpoint)) <= TOLERANCE
