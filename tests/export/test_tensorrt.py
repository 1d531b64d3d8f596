"""Every graph becomes a TensorRT-RTX engine, on a machine without a GPU, with every attention layer fused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
SIZES = Qwen2VLSizes(vision_layers=1, language_layers=2, mlp=64)
ATTENTION = {"vision_encoder": 1, "language_model": 2}
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


class Written(NamedTuple):
    """Graphs of a retriever in a precision; `folder/STEP/1` holds that of a step."""

    retriever: PublishedRetriever
    steps: list[Step]
    lengths: dict[ItemPath, ItemLengths]
    folder: Path

    def graph(self, step: str) -> Path:
        return self.folder / step / "1" / "model.onnx"

    def profiles(self, name: str) -> list[Profile]:
        step = next(step for step in self.steps if step.name == name)
        return step_profiles(step, self.retriever.recipe, self.lengths, self.retriever.width)


Graphs = Callable[[str, Precision], Written]


@pytest.fixture(scope="module")
def graphs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    """Write the graph of every step, of a recipe and in a precision, when they are first asked for."""

    @functools.cache
    def write(recipe: str, precision: Precision) -> Written:
        folder = tmp_path_factory.mktemp("graphs")
        retriever = open_retriever(str(checkpoint), recipe)
        written = write_preparation(folder / "preparation", "r", retriever.recipe, retriever.tokenizer)
        preparer = Preparer(written["text"])
        golden: Golden = sample_inputs(preparer, retriever.steps, retriever.width)
        steps = [at(step, precision) for step in retriever.steps]
        for tower, step in zip(retriever.steps, steps, strict=True):
            module = load_step(tower, retriever.checkpoint.weights)
            for path in step.paths:
                run_step(step.name, path.name, golden, module_runner(tower, module))
            export_graph(step, cast(module, precision), example(step, golden), folder / step.name / "1")
        return Written(retriever, steps, preparer.lengths, folder)

    return write


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_graph_compiles(api: Any, graphs: Graphs, recipe: str, precision: Precision) -> None:
    written = graphs(recipe, precision)
    for step in written.steps:
        search = (
            Profile("search", SEARCH, {spec.name: shapes(spec, SEARCH) for spec in step.inputs})
            if step.name == ("maxsim")
            else None
        )
        profiles = [search] if search else written.profiles(step.name)
        plan = build_engine(api, written.graph(step.name), profiles, Options())
        assert len(plan.engine) > 10_000
        assert plan.attention_layers == ATTENTION.get(step.name, 0)
        assert plan.log
        assert str(written.folder) not in "".join(plan.log)


def test_attention_without_a_fused_kernel_is_refused(api: Any, graphs: Graphs) -> None:
    """fp32 has none. This is what holds the count above: an attention layer that is left is a fused one."""
    written = graphs("colqwen2", "fp32")
    with pytest.raises(ExportError) as caught:
        build_engine(api, written.graph("language_model"), written.profiles("language_model"), Options())
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


def test_nodes_are_called_by_their_modules(graphs: Graphs) -> None:
    graph = graphs("colqwen2", "fp32").graph("vision_encoder")
    found = places(graph)
    assert any(node.startswith("blocks.0.attn.qkv/matmul") for node in found)
    assert {place.split(":")[0] for place in found.values()} == {
        "families/qwen2_vl.py",
        "models/layers.py",
        "models/pixels.py",
        "models/vision.py",
    }
    data = graph.read_bytes()
    assert b"site-packages" not in data
    assert str(Path(__file__).parents[2]).encode() not in data


def test_what_a_builder_refuses_to_do_without_a_gpu_is_said(api: Any, graphs: Graphs) -> None:
    """TensorRT-RTX strips weights with a GPU only, and knows no version compatibility; neither is left out silently."""
    written = graphs(RECIPES[0], "fp16")
    graph, profiles = written.graph("language_model"), written.profiles("language_model")
    with pytest.raises(ExportError, match=r"language_model/1/model\.onnx cannot be built: .*libnvinfer_lean"):
        build_engine(api, graph, profiles, Options(version_compatible=True))


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
