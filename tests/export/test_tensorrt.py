"""Every graph becomes a TensorRT-RTX engine, on a machine without a GPU, with every attention layer fused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from periscope_export.engines.engine import Options
from periscope_export.engines.tensorrt_builder import build_engine, load_builder
from periscope_export.errors import ExportError
from periscope_export.fidelity.record import Golden, run_step
from periscope_export.fidelity.sample_inputs import sample_inputs
from periscope_export.graphs.graph import example, export_graph, module_runner, places
from periscope_export.graphs.precision import Precision, at, cast
from periscope_export.models.steps import Step
from periscope_export.models.weights import load_step
from periscope_export.published import PublishedRetriever, open_retriever
from periscope_export.recipes.loading import load_recipe, recipe_names
from periscope_export.repository.profiles import Lengths, Profile, shapes, step_profiles
from periscope_export.repository.writing import write_preparation
from periscope_runtime.lengths import ItemLengths
from periscope_runtime.paths import ItemPath
from periscope_runtime.prepare import Preparer
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes

# Heads of the published widths (80, 128): the fused kernels depend on them.
SIZES = Qwen2VLSizes(vision_layers=2, language_layers=3, mlp=64)
ATTENTION = {"vision_encoder": 2, "language_model": 3}
# The recipes on this checkpoint's backbone that have every head; other systems: tests/systems.
RECIPES = [
    name
    for name in recipe_names()
    if (recipe := load_recipe(name)).backbone == "qwen2_vl" and recipe.outputs.late and recipe.outputs.dense
]
# MaxSim is compiled nowhere but here: callers may send it more than any profile has room for.
SEARCH = {"Q": Lengths(1, 1, 16), "T": Lengths(8, 32, 64), "N": Lengths(1, 4, 64), "S": Lengths(8, 800, 800)}


@pytest.fixture(scope="module")
def api() -> Any:
    return load_builder("tensorrt-rtx")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colqwen2(tmp_path_factory.mktemp("made") / "checkpoint", SIZES)


def graphs(
    checkpoint: Path, recipe: str, precision: Precision, folder: Path
) -> tuple[PublishedRetriever, list[Step], dict[ItemPath, ItemLengths]]:
    """Write the graph of every step; `folder/STEP/1` holds it."""
    retriever = open_retriever(str(checkpoint), recipe)
    preparer = Preparer(write_preparation(folder / "preparation", "r", retriever.recipe, retriever.tokenizer)["text"])
    golden: Golden = sample_inputs(preparer, retriever.steps, retriever.width)
    steps = [at(step, precision) for step in retriever.steps]
    for tower, step in zip(retriever.steps, steps, strict=True):
        module = load_step(tower, retriever.checkpoint.weights)
        for path in step.paths:
            run_step(step.name, path.name, golden, module_runner(tower, module))
        export_graph(step, cast(module, precision), example(step, golden), folder / step.name / "1")
    return retriever, steps, preparer.lengths


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_graph_compiles(api: Any, checkpoint: Path, recipe: str, precision: Precision, tmp_path: Path) -> None:
    retriever, steps, lengths = graphs(checkpoint, recipe, precision, tmp_path)
    for step in steps:
        search = (
            Profile("search", SEARCH, {spec.name: shapes(spec, SEARCH) for spec in step.inputs})
            if step.name == ("maxsim")
            else None
        )
        profiles = [search] if search else step_profiles(step, retriever.recipe, lengths, retriever.width)
        plan = build_engine(api, tmp_path / step.name / "1" / "model.onnx", profiles, Options())
        assert len(plan.engine) > 10_000
        assert plan.attention_layers == ATTENTION.get(step.name, 0)
        assert plan.log
        assert str(tmp_path) not in "".join(plan.log)


def test_attention_without_a_fused_kernel_is_refused(api: Any, checkpoint: Path, tmp_path: Path) -> None:
    """fp32 has none. This is what holds the count above: an attention layer that is left is a fused one."""
    retriever, steps, lengths = graphs(checkpoint, "colqwen2", "fp32", tmp_path)
    step = next(step for step in steps if step.name == "language_model")
    graph = tmp_path / step.name / "1" / "model.onnx"
    with pytest.raises(ExportError) as caught:
        build_engine(api, graph, step_profiles(step, retriever.recipe, lengths, retriever.width), Options())
    message = str(caught.value)
    assert message.startswith("engine: language_model/1/model.onnx cannot be built: ")
    assert "dedicated kernel" in message
    # Each refused layer with its place in our code.
    for layer in range(SIZES.language_layers):
        node = f"layers.{layer}/scaled_dot_product_attention"
        assert f"{node}{f'_{layer}' if layer else ''} (models/decoder.py:" in message
    line = int(message.split("models/decoder.py:")[1].split(")")[0])
    source = (Path(__file__).parents[2] / "export/periscope_export/models/decoder.py").read_text()
    assert "scaled_dot_product_attention" in source.splitlines()[line - 1]


def test_nodes_are_called_by_their_modules(checkpoint: Path, tmp_path: Path) -> None:
    graphs(checkpoint, "colqwen2", "fp32", tmp_path)
    found = places(tmp_path / "vision_encoder" / "1" / "model.onnx")
    assert any(node.startswith("blocks.1.attn.qkv/matmul") for node in found)
    assert {place.split(":")[0] for place in found.values()} == {
        "families/qwen2_vl.py",
        "models/layers.py",
        "models/pixels.py",
        "models/vision.py",
    }
    data = (tmp_path / "vision_encoder" / "1" / "model.onnx").read_bytes()
    assert b"site-packages" not in data
    assert str(Path(__file__).parents[2]).encode() not in data


def test_what_a_builder_refuses_to_do_without_a_gpu_is_said(api: Any, checkpoint: Path, tmp_path: Path) -> None:
    """TensorRT-RTX strips weights with a GPU only, and knows no version compatibility; neither is left out silently."""
    retriever, steps, lengths = graphs(checkpoint, "colqwen2", "fp16", tmp_path)
    step = next(step for step in steps if step.name == "language_model")
    graph = tmp_path / step.name / "1" / "model.onnx"
    with pytest.raises(ExportError, match=r"language_model/1/model\.onnx cannot be built: .*libnvinfer_lean"):
        build_engine(
            api,
            graph,
            step_profiles(step, retriever.recipe, lengths, retriever.width),
            Options(version_compatible=True),
        )


def test_a_graph_that_is_none_is_named(api: Any, tmp_path: Path) -> None:
    graph = tmp_path / "vision_encoder" / "1" / "model.onnx"
    graph.parent.mkdir(parents=True)
    graph.write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"vision_encoder/1/model\.onnx cannot be parsed"):
        build_engine(api, graph, [], Options())


def test_a_missing_builder_names_its_extra() -> None:
    with pytest.raises(ExportError, match=r"engine tensorrt: .*\[gpu\]"):
        load_builder("tensorrt")


def test_weights_and_vectors_have_their_precisions(checkpoint: Path) -> None:
    retriever = open_retriever(str(checkpoint), "colqwen2_dense")
    steps = [at(step, "bf16") for step in retriever.steps]
    dtypes = {spec.name: spec.dtype for step in steps for spec in (*step.inputs, *step.outputs)}
    assert {name for name, dtype in dtypes.items() if dtype == "bfloat16"} == {"visual_tokens", "hidden_states"}
    assert {name for name, dtype in dtypes.items() if dtype == "float32"} == {
        "late",
        "dense",
        "score",
        "query_late",
        "document_late",
    }
    encoder = cast(load_step(steps[0], retriever.checkpoint.weights), "bf16")
    assert {str(parameter.dtype) for parameter in encoder.parameters()} == {"torch.bfloat16"}
    assert {str(buffer.dtype) for buffer in encoder.buffers()} == {"torch.float32"}
