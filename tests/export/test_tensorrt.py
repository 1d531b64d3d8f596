"""Every graph becomes a TensorRT-RTX engine, on a machine without a GPU, with every attention layer fused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from periscope_demo.checkpoint import make_checkpoint
from periscope_demo.layout import Sizes
from periscope_export.errors import ExportError
from periscope_export.exporter import _sample_inputs
from periscope_export.fidelity import Golden, run_step
from periscope_export.graph import export_graph, module_runner
from periscope_export.precision import Precision, cast
from periscope_export.profiles import Lengths, of_step, profiles, shapes
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.recipe import load_recipe, recipe_names
from periscope_export.repository import write_preparation
from periscope_export.steps import TensorSpec
from periscope_export.tensorrt_engine import build_engine, load_builder
from periscope_export.weights import load_step
from periscope_runtime.prepare import Preparer

# Heads of the published widths (80, 128): the fused kernels depend on them.
SIZES = Sizes(vision_layers=2, language_layers=3, mlp=64)
ATTENTION = {"vision_encoder": 2, "language_model": 3}


@pytest.fixture(scope="module")
def api() -> Any:
    return load_builder("tensorrt-rtx")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("made") / "checkpoint", SIZES)


def graphs(checkpoint: Path, recipe: str, precision: Precision, folder: Path) -> PublishedRetriever:
    retriever = open_retriever(str(checkpoint), recipe, precision=precision)
    preparation = write_preparation(folder / "preparation", "r", retriever.recipe, retriever.tokenizer)["text"]
    golden: Golden = _sample_inputs(Preparer(preparation), retriever)
    for step in retriever.steps:
        module = load_step(step, retriever.checkpoint.weights)
        for path in step.paths:
            run_step(step.name, path, golden, module_runner(step, module))
        export_graph(step, cast(module, precision), golden[step.paths[-1]], folder / step.name / "1")
    return retriever


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("recipe", [name for name in recipe_names() if load_recipe(name).outputs.dense])
def test_every_graph_compiles(api: Any, checkpoint: Path, recipe: str, precision: Precision, tmp_path: Path) -> None:
    retriever = graphs(checkpoint, recipe, precision, tmp_path)
    wanted = profiles(retriever.recipe, page_prompt=16)
    for step in retriever.steps:
        engine = build_engine(api, tmp_path / step.name / "1" / "model.onnx", of_step(step, wanted))
        assert len(engine.plan) > 10_000
        assert engine.attention_layers == ATTENTION.get(step.name, 0)


def test_attention_without_a_fused_kernel_is_refused(api: Any, checkpoint: Path, tmp_path: Path) -> None:
    """fp32 has none. This is what holds the count above: an attention layer that is left is a fused one."""
    retriever = graphs(checkpoint, "colqwen2", "fp32", tmp_path)
    step = next(step for step in retriever.steps if step.name == "language_model")
    graph = tmp_path / step.name / "1" / "model.onnx"
    with pytest.raises(ExportError, match=r"engine: language_model/1/model.onnx cannot be built: .*dedicated kernel"):
        build_engine(api, graph, of_step(step, profiles(retriever.recipe, page_prompt=16)))


def test_a_graph_that_is_none_is_named(api: Any, tmp_path: Path) -> None:
    graph = tmp_path / "vision_encoder" / "1" / "model.onnx"
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"vision_encoder/1/model\.onnx cannot be parsed"):
        build_engine(api, graph, {})


def test_a_missing_builder_names_its_extra() -> None:
    with pytest.raises(ExportError, match=r"engine tensorrt: .*\[gpu\]"):
        load_builder("tensorrt")


def test_profiles_cover_what_preparation_sends() -> None:
    recipe = load_recipe("colqwen2")
    found = profiles(recipe, page_prompt=16)
    # 602112 pixels are 768 visual tokens, 3072 patches; with the prompt 784 tokens, in buckets of 32: 800.
    assert found["pages"] == {"B": Lengths(1, 4, 4), "T": Lengths(32, 800, 800), "V": Lengths(32, 768, 768)}
    assert found["query"] == {"B": Lengths(1, 1, 1), "T": Lengths(8, 32, 2048), "V": Lengths(0, 0, 0)}
    patches = TensorSpec("patches", "uint8", ("B", "4V", 1176))
    assert shapes(patches, found["pages"]) == ((1, 128, 1176), (4, 3072, 1176), (4, 3072, 1176))


def test_weights_and_vectors_have_their_precisions(checkpoint: Path) -> None:
    retriever = open_retriever(str(checkpoint), "colqwen2_dense", precision="bf16")
    dtypes = {spec.name: spec.dtype for step in retriever.steps for spec in (*step.inputs, *step.outputs)}
    assert {name for name, dtype in dtypes.items() if dtype == "bfloat16"} == {"visual_tokens", "hidden_states"}
    assert {name for name, dtype in dtypes.items() if dtype == "float32"} == {
        "late",
        "dense",
        "score",
        "query_late",
        "document_late",
    }
    encoder = cast(load_step(retriever.steps[0], retriever.checkpoint.weights), "bf16")
    assert {str(parameter.dtype) for parameter in encoder.parameters()} == {"torch.bfloat16"}
    assert {str(buffer.dtype) for buffer in encoder.buffers()} == {"torch.float32"}
