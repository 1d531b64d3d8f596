"""Oddities of ColQwen2.5; everything else is in tests/contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from export.test_towers import QUERY, page, towers, vectors
from periscope_export.errors import ExportError
from periscope_export.published import open_retriever
from periscope_testing.colqwen2.layout import Layout
from periscope_testing.colqwen2_5 import ColQwen25Reference, make_colqwen2_5
from periscope_testing.qwen2_vl import Form, Qwen2VLSizes

RECIPE = "colqwen2_5"


@pytest.mark.parametrize(
    ("layout", "adapter", "form", "dtype"),
    [
        ("engine-old", "lora", "short", torch.float32),
        ("engine-new", "lora", "nested", torch.bfloat16),
        ("engine-old", None, "flat", torch.bfloat16),
    ],
)
def test_every_layout(
    tmp_path: Path, layout: Layout, adapter: Literal["lora"] | None, form: Form, dtype: torch.dtype
) -> None:
    sizes = Qwen2VLSizes(vision_layers=3, language_layers=1, heads=4, kv_heads=2, tied=adapter is None, dtype=dtype)
    checkpoint = make_colqwen2_5(tmp_path / "checkpoint", sizes, layout=layout, adapter=adapter, form=form)
    tensors = towers(open_retriever(str(checkpoint), RECIPE), tmp_path / "made")
    reference = ColQwen25Reference(checkpoint)
    wanted = {"image": reference.images([page()])[0], "text": reference.queries([QUERY])[0]}
    for path, vectors_TK in wanted.items():
        np.testing.assert_allclose(vectors(tensors, path), vectors_TK, rtol=0, atol=1e-5)


def test_a_retriever_of_transformers_is_read_by_the_model_inside(tmp_path: Path) -> None:
    """Its own name does not say which Qwen is inside."""
    checkpoint = make_colqwen2_5(tmp_path / "checkpoint", Qwen2VLSizes(), layout="transformers", adapter=None)
    assert json.loads((checkpoint / "config.json").read_text())["model_type"] == "colqwen2"
    assert open_retriever(str(checkpoint), RECIPE).recipe.backbone == "qwen2_5_vl"
    with pytest.raises(ExportError, match=r"this is a Qwen2\.5-VL .*, not a Qwen2-VL"):
        open_retriever(str(checkpoint), "colqwen2")


def test_windows_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = make_colqwen2_5(tmp_path / "checkpoint", Qwen2VLSizes(), adapter=None)
    config = json.loads((checkpoint / "config.json").read_text())
    config["vision_config"]["window_size"] = 224
    (checkpoint / "config.json").write_text(json.dumps(config))
    retriever = open_retriever(str(checkpoint), RECIPE, settings={"preparation.buckets.patches": 256})
    tensors, reference = towers(retriever, tmp_path / "made"), ColQwen25Reference(checkpoint)
    np.testing.assert_allclose(vectors(tensors, "image"), reference.images([page()])[0], rtol=0, atol=1e-5)
