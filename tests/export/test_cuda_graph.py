"""Graphs in the CUDA provider's operators give what the graphs that they are made of give, with and without padding."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.conftest import TracedQwen3VL
from export.qwen3_vl_rows import Tensors
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_export.graphs.cuda import convert


class Pair(NamedTuple):
    """A step's graph as it is exported, the same in the provider's operators, how many blocks it has, and inputs."""

    exported: Path
    converted: Path
    blocks: int
    tensors: Tensors


@pytest.fixture(scope="module")
def pairs(traced: TracedQwen3VL, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    found = {}
    for one, blocks in ((traced.vision, traced.vision.module.blocks), (traced.language, traced.language.module.layers)):
        copy = Path(shutil.copytree(one.graph.parent, tmp_path_factory.mktemp("converted") / one.step.name))
        found[one.step.name] = Pair(one.graph, convert(copy / one.graph.name), len(blocks), one.inputs)
    return found


def run(graph: Path, tensors: Tensors) -> NDArray[Any]:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    result: NDArray[Any] = session.run(None, tensors)[0]
    return result


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes(attribute.g)


@pytest.mark.parametrize("step", ["vision_encoder", "language_model"])
def test_it_computes_the_same(pairs: dict[str, Pair], step: str) -> None:
    pair = pairs[step]
    np.testing.assert_allclose(run(pair.converted, pair.tensors), run(pair.exported, pair.tensors), atol=2e-5)


def test_several_images_in_a_row_do_not_see_each_other(pairs: dict[str, Pair]) -> None:
    pair = pairs["vision_encoder"]
    segments = pair.tensors["patch_segments"].copy()
    assert segments.max() == 0
    half = segments[..., : segments.shape[-1] // 2]
    half[half == 0] = 1
    packed = {**pair.tensors, "patch_segments": segments}
    wanted = run(pair.exported, packed)
    np.testing.assert_allclose(run(pair.converted, packed), wanted, atol=2e-5)
    assert np.abs(run(pair.converted, pair.tensors) - wanted).max() > 1e-2


def test_every_attention_goes_by_lengths_and_every_rotation_is_one_operator(pairs: dict[str, Pair]) -> None:
    for step, pair in pairs.items():
        model = onnx.load(pair.converted, load_external_data=False)
        onnx.checker.check_model(str(pair.converted), full_check=True)
        assert {node.domain for node in nodes(model.graph)} == {""}
        kinds = Counter(node.op_type for node in nodes(model.graph))
        attention = [node for node in nodes(model.graph) if node.op_type == "Attention"]
        assert kinds["RotaryEmbedding"] == 2 * pair.blocks
        if step == "vision_encoder":
            assert kinds["If"] == pair.blocks
            assert [len(node.input) for node in attention] == [4, 7] * pair.blocks
        else:
            assert [len(node.input) for node in attention] == [3] * pair.blocks  # causal, without a mask
        # Heads stay where the projections leave them; of the rest, `MultiRotation.angles` transposes once.
        assert kinds["Transpose"] == (step == "language_model")


def test_an_onnxruntime_without_it_stops_the_export_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.23.2")
    with pytest.raises(ExportError, match=r"1\.23\.2 has no attention by key lengths. Install 1\.24"):
        export(Request("nowhere", "colqwen2", tmp_path / "out", engine="onnxruntime-cuda"))
