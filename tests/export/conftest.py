"""Fixtures of several files, made once: a checkpoint that is exported, its repository, and graphs of Qwen3-VL."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from e2e.pages import draw_page
from export.qwen3_vl_rows import Built, Tensors, build, joined, prepared, published
from periscope_client.console import main
from periscope_export.graphs.graph import export_graph
from periscope_export.graphs.precision import at
from periscope_export.models.steps import Step
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes
from periscope_testing.qwen3_vl.checkpoint import Qwen3VLSizes

TINY = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64)
LIMIT, PIXELS = "preparation.limits.image_pixels", 134217728


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colqwen2(tmp_path_factory.mktemp("made") / "checkpoint", TINY)


@pytest.fixture(scope="session")
def repository(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "repository"
    arguments = ["--recipe", "colqwen2_dense", "--output", str(output), "--name", "mine", "--set", f"{LIMIT}={PIXELS}"]
    assert main(["export", str(checkpoint), *arguments]) == 0
    return output


class Traced(NamedTuple):
    """A step of Qwen3-VL in fp32, the module that fills it, its graph, and the inputs that it was traced with."""

    step: Step
    module: Any
    graph: Path
    inputs: Tensors


class TracedQwen3VL(NamedTuple):
    """Qwen3-VL of two layers with one level of DeepStack."""

    built: Built
    vision: Traced
    language: Traced


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> TracedQwen3VL:
    """Heads are normalised, keys are grouped, and images of two sizes lie side by side. Leave the files as they are."""
    folder = tmp_path_factory.mktemp("traced")
    built = build(folder / "checkpoint", Qwen3VLSizes(vision_layers=2, levels=(0,), layers=2))
    items = [{"image": draw_page(*size, seed), "text": "revenue"} for seed, size in enumerate([(90, 120), (160, 200)])]
    tensors: Tensors = joined([prepared(built.reference, published(built.reference, item)) for item in items])
    tensors["visual_tokens"] = built.run(tensors)["visual_tokens"]

    def traced(step: Step, module: Any) -> Traced:
        step = at(step, "fp32")
        inputs = {spec.name: tensors[spec.name].astype(spec.dtype) for spec in step.inputs}
        return Traced(step, module, export_graph(step, module, inputs, folder / step.name), inputs)

    return TracedQwen3VL(built, traced(built.vision_step, built.vision), traced(built.language_step, built.language))
