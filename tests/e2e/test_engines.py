"""Repositories for GPUs: what is written for each engine, and as much of it as a machine without a GPU can run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from safetensors.torch import load_file, save_file
from tritonclient.grpc import InferenceServerClient, InferInput, model_config_pb2

from periscope_client.console import main
from periscope_demo.shipped import SHIPPED_RECIPE, shipped_checkpoint
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_serve.lint import lint
from periscope_serve.server import Server
from periscope_testing.colqwen2.checkpoint import make_colqwen2

GRAPHS = ("vision_encoder", "language_model", "late_head", "dense_head")


def exported(folder: Path, engine: str, precision: Any = None) -> Path:
    request = Request(
        str(shipped_checkpoint()), SHIPPED_RECIPE, folder / engine, name="r", engine=engine, precision=precision
    )
    return export(request)


@pytest.fixture(scope="module")
def plans(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In bf16, which no processor here computes in."""
    return exported(tmp_path_factory.mktemp("plans"), "tensorrt-rtx", "bf16")


@pytest.fixture(scope="module")
def accelerated(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("accelerated"), "onnxruntime-tensorrt")


@pytest.fixture
def changed(plans: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(plans, tmp_path / "changed"))


def config(repository: Path, step: str) -> Any:
    text = (repository / f"r_{step}" / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def report(repository: Path) -> Any:
    return json.loads((repository / "fidelity.json").read_text())


def rewrite(path: Path, change: Callable[[str], str]) -> None:
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


def test_plans_take_the_place_of_graphs(plans: Path) -> None:
    for step in GRAPHS:
        version = plans / f"r_{step}" / "1"
        assert sorted(path.name for path in version.iterdir()) == ["build.log", "engine.json", "model.plan"]
        assert "Detected" in (version / "build.log").read_text()
        engine = json.loads((version / "engine.json").read_text())
        assert (engine["engine"], engine["strip_weights"]) == ("tensorrt-rtx", False)
        # The shipped retriever's depths: every attention layer is a fused one.
        assert engine["attention_layers"] == {"vision_encoder": 4, "language_model": 2}.get(step, 0)
    assert (plans / "r_maxsim" / "1" / "model.onnx").is_file()


def test_configs_for_plans(plans: Path) -> None:
    model = config(plans, "language_model")
    assert (model.platform, model.default_model_filename) == ("tensorrt_plan", "model.plan")
    assert [list(group.profile) for group in model.instance_group] == [["0", "1", "2"]]
    assert model.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(model.dynamic_batching.preferred_batch_size) == [4, 16]
    cuda = model.optimization.cuda
    assert cuda.graphs
    assert [list(spec.input["input_ids"].dim) for spec in cuda.graph_spec] == [[n] for n in range(16, 65, 16)]
    assert list(cuda.graph_spec[0].input["visual_tokens"].dim) == [0, 256]
    assert not config(plans, "vision_encoder").optimization.cuda.graphs
    assert config(plans, "maxsim").backend == "onnxruntime"


def test_configs_differ_in_the_engine_and_in_nothing_else(plans: Path, accelerated: Path) -> None:
    """Ensembles, names, shapes, batches: what is left when the engine's part and the precision are taken away."""

    def rest(repository: Path, name: str) -> Any:
        model = config(repository, name)
        for field in ("platform", "backend", "default_model_filename", "instance_group", "optimization"):
            model.ClearField(field)
        model.dynamic_batching.ClearField("preferred_batch_size")
        model.parameters.clear()
        for tensor in (*model.input, *model.output):
            if tensor.data_type == model_config_pb2.TYPE_BF16:
                tensor.data_type = model_config_pb2.TYPE_FP16
        return model

    names = sorted(path.parent.name.removeprefix("r_") for path in plans.glob("*/config.pbtxt"))
    assert len(names) == 9
    for name in names:
        one, other = rest(plans, name), rest(accelerated, name)
        if name.startswith(("embed", "preprocess")):
            assert config(plans, name).platform == config(accelerated, name).platform
        assert one == other, name


def test_the_checkpoints_own_activations_decide_the_precision(plans: Path, accelerated: Path) -> None:
    found = report(accelerated)
    assert found["precision"] == "fp16"
    assert 0 < found["activations"]["language_model"]["value"] < found["activations"]["limit"] == 65504 / 4
    assert found["activations"]["language_model"]["module"].startswith("layers.")
    assert report(plans)["activations"] is None
    assert report(plans)["measured_with"] == "the towers in bf16, in torch, on the CPU"
    assert report(accelerated)["measured_with"] == "the graphs, in onnxruntime, on the CPU"


def test_shapes_for_the_tensorrt_provider(accelerated: Path) -> None:
    (accelerator,) = config(accelerated, "vision_encoder").optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    # The shipped retriever's pages have at most 256 visual tokens.
    assert accelerator.parameters["trt_profile_max_shapes"] == (
        "patches:4x1x1024x1176,patch_positions:4x1x1024x2,patch_segments:4x1x1024,visual_index:4x256"
    )
    assert accelerator.parameters["trt_engine_cache_enable"] == "1"
    assert not config(accelerated, "maxsim").optimization.execution_accelerators.gpu_execution_accelerator


def test_both_are_sound(plans: Path, accelerated: Path) -> None:
    assert lint([plans]) == []
    assert lint([accelerated]) == []


def test_the_embedded_server_says_where_plans_are_served(plans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(plans)]) == 1
    assert "it needs the backend 'tensorrt'" in capsys.readouterr().err


def test_plans_are_verified_on_gpus(plans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(plans)]) == 1
    assert "plans run on a GPU only, and" in capsys.readouterr().err


def test_graphs_in_bf16_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = exported(tmp_path, "onnxruntime-cuda", "bf16")
    assert lint([repository]) == []
    assert main(["verify", str(repository)]) == 1
    assert "engine: torch" in capsys.readouterr().err


def test_texts_have_no_visual_tokens_in_bf16_either(plans: Path, tmp_path: Path) -> None:
    """Through the server: numpy has no such type, and the language model's graph takes no other."""
    shutil.copytree(plans / "r_preprocess_text", tmp_path / "repository" / "r_preprocess_text")
    with (
        Server(
            [tmp_path / "repository"], grpc_port=0, http_port=0, metrics_port=0, log=tmp_path / "triton.log"
        ) as server,
        InferenceServerClient(server.grpc_url) as triton,
    ):
        text = InferInput("TEXT", [2, 1], "BYTES")
        text.set_data_from_numpy(np.array([[b"one"], [b"two words"]], dtype=object))
        for _ in range(3):
            outputs = {out.name: out for out in triton.infer("r_preprocess_text", [text]).get_response().outputs}
    assert (outputs["visual_tokens"].datatype, list(outputs["visual_tokens"].shape)) == ("BF16", [2, 0, 256])
    assert list(outputs["input_ids"].shape) == [2, 32]


def test_lint_finds_what_a_profile_does_not_cover(changed: Path) -> None:
    rewrite(
        changed / "r_preprocess_text" / "1" / "recipe.json",
        lambda text: text.replace('"text_tokens": 2048', '"text_tokens": 4096'),
    )
    other, *found = [str(finding) for finding in lint([changed])]
    assert "1/recipe.json is not what was exported" in other
    assert len(found) == 3
    assert (
        "model 'r_language_model': no profile of its engine covers every text that preparation sends (query: "
        in found[0] + found[1] + found[2]
    )
    assert "T 16 to 2048 instead of 16 to 4096" in found[0]


def test_lint_finds_more_rows_than_a_profile_has(changed: Path) -> None:
    rewrite(
        changed / "r_vision_encoder" / "config.pbtxt",
        lambda text: text.replace("max_batch_size: 4", "max_batch_size: 8"),
    )
    (finding,) = lint([changed])
    assert "B 1 to 4 instead of 1 to 8" in str(finding)


def test_lint_finds_a_forgotten_profile(changed: Path) -> None:
    path = changed / "r_language_model" / "config.pbtxt"
    rewrite(path, lambda text: text.replace('profile: ["0", "1", "2"]', 'profile: ["0"]'))
    findings = {str(finding) for finding in lint([changed])}
    assert len(findings) == 1
    assert "its instance groups use the profiles 0, and its plan has 3" in findings.pop()


def test_lint_finds_shapes_of_another_export(accelerated: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(accelerated, tmp_path / "copy"))
    rewrite(copy / "r_vision_encoder" / "config.pbtxt", lambda text: text.replace("x1024x", "x512x"))
    assert "its trt_profile_opt_shapes are not those of 1/engine.json" in "".join(map(str, lint([copy])))


def test_a_family_beyond_fp16_gets_bf16(tmp_path: Path) -> None:
    """The same function with larger numbers inside: what goes up by a million comes down by a million."""
    checkpoint = make_colqwen2(tmp_path / "checkpoint", adapter=None)
    for path in checkpoint.glob("*.safetensors"):
        weights = load_file(path)
        for name in weights:
            if name.endswith("layers.1.mlp.up_proj.weight"):
                weights[name] *= 1e6
            elif name.endswith("layers.1.mlp.down_proj.weight"):
                weights[name] *= 1e-6
        save_file(weights, path, metadata={"format": "pt"})

    lines: list[str] = []
    request = Request(str(checkpoint), "colqwen2", tmp_path / "repository", engine="onnxruntime-tensorrt")
    found = report(export(request, lines.append))
    assert found["precision"] == "bf16"
    assert found["activations"]["language_model"]["value"] > found["activations"]["limit"]
    assert found["activations"]["language_model"]["module"] in ("layers.1.mlp.up_proj", "layers.1.mlp.down_proj")
    assert found["activations"]["vision_encoder"]["value"] < found["activations"]["limit"]
    assert any("at language_model.layers.1.mlp" in line and "is beyond" in line for line in lines)
    with pytest.raises(
        ExportError, match=r"fp16 holds numbers up to 6.55e\+04, .*layers\.1\.mlp\.up_proj\.weight .* in bf16"
    ):
        export(replace(request, output=tmp_path / "half", precision="fp16"), lines.append)
