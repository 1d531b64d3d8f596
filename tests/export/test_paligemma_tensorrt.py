"""Every graph of ColPali becomes a TensorRT-RTX engine, with every attention layer of its head widths fused."""

from __future__ import annotations

from pathlib import Path

import pytest

from periscope_export.engines.engine import Options
from periscope_export.engines.tensorrt_builder import build_engine, load_builder
from periscope_export.fidelity.record import run_step
from periscope_export.fidelity.sample_inputs import sample_inputs
from periscope_export.graphs.graph import example, export_graph, module_runner
from periscope_export.graphs.precision import Precision, at, cast
from periscope_export.models.weights import load_step
from periscope_export.published import open_retriever
from periscope_export.repository.profiles import step_profiles
from periscope_export.repository.writing import write_preparation
from periscope_runtime.prepare import Preparer
from periscope_testing.colpali.checkpoint import ColPaliSizes, make_colpali

SIZES = ColPaliSizes(side=448, vision_layers=1, layers=2, heads=8)
ATTENTION = {"vision_encoder": 1, "language_model": 2, "late_head": 0}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_graph_compiles(precision: Precision, tmp_path: Path) -> None:
    api = load_builder("tensorrt-rtx")
    checkpoint = make_colpali(tmp_path / "checkpoint", SIZES, adapter=False)
    retriever = open_retriever(str(checkpoint), "colpali")
    written = write_preparation(tmp_path / "preparation", "r", retriever.recipe, retriever.tokenizer)
    preparer = Preparer(written["text"])
    golden = sample_inputs(preparer, retriever.steps, retriever.width)
    compiled = {}
    for tower in retriever.steps:
        step, module = at(tower, precision), load_step(tower, retriever.checkpoint.weights)
        for path in step.paths:
            run_step(step.name, path.name, golden, module_runner(tower, module))
        graph = export_graph(step, cast(module, precision), example(step, golden), tmp_path / step.name / "1")
        if profiles := step_profiles(step, retriever.recipe, preparer.lengths, retriever.width):
            compiled[step.name] = build_engine(api, graph, profiles, Options()).attention_layers
    assert compiled == ATTENTION
