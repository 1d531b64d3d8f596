"""An export is complete or absent, says what it serves, and can be measured again."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from periscope_client.console import main
from periscope_export import exporter
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_export.fidelity.record import file_digests, read_golden
from periscope_export.graphs.graph import export_graph
from periscope_export.models import layers
from periscope_export.models.heads import DenseHead, dense_step
from periscope_runtime.paths import IMAGE, TEXT
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes

TINY = Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64)
LIMIT, PIXELS = "preparation.limits.image_pixels", 134217728
STEPS = ("vision_encoder", "language_model", "late_head", "dense_head", "maxsim")

# Files of the package whose lines make nodes of these graphs.
OURS = {
    b"families/qwen2_vl.py",
    *(b"models/%s.py" % name for name in (b"decoder", b"layers", b"pixels", b"vision", b"visual_tokens")),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_colqwen2(tmp_path_factory.mktemp("made") / "checkpoint", TINY)


@pytest.fixture(scope="module")
def repository(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "repository"
    arguments = ["--recipe", "colqwen2_dense", "--output", str(output), "--name", "mine", "--set", f"{LIMIT}={PIXELS}"]
    assert main(["export", str(checkpoint), *arguments]) == 0
    return output


def test_the_repository_holds_every_model(repository: Path) -> None:
    models = {path.name for path in repository.iterdir() if path.is_dir()}
    preparation, ensembles = ("preprocess_text", "preprocess_image"), ("embed_text", "embed_image")
    assert models == {f"mine_{name}" for name in (*preparation, *STEPS, *ensembles)}
    assert {path.name for path in repository.iterdir() if path.is_file()} == {
        "fidelity.json",
        "golden.npz",
        "recipe.json",
    }


def test_graphs_use_the_standard_operators_and_name_no_file_of_the_exporter(repository: Path) -> None:
    operators: set[str] = set()
    for step in ("vision_encoder", "language_model"):
        path = repository / f"mine_{step}" / "1" / "model.onnx"
        model = onnx.load(path, load_external_data=False)
        assert {entry.version for entry in model.opset_import if entry.domain == ""} == {23}
        operators |= {node.op_type for node in model.graph.node}
        assert path.with_name("model.onnx.data").is_file()
        # Only where our own lines are, inside our package: the same on every machine.
        files = set(re.findall(rb"[\w./-]+\.py\b", path.read_bytes()))
        assert {name.lstrip(b"/") for name in files} <= OURS
        assert not any(name.startswith(b"/") for name in files)
    assert {"Attention", "RMSNormalization", "LayerNormalization"} <= operators


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (
            "preparation.prompts.query.text=Find",
            "export: recipe: the text prompt of the role 'query' must hold {text} once",
        ),
        ("preparation.limits.text_tokens=1", "the items that graphs are measured with cannot be prepared: one has "),
        ("preparation.image.max_aspect_ratio=1", "one has 336 x 448 pixels, an aspect ratio of 1.333"),
    ],
)
def test_settings_that_preparation_cannot_work_with(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, reason: str
) -> None:
    arguments = ["--recipe", "colqwen2", "--output", str(tmp_path / "models"), "--set", setting]
    assert main(["export", str(checkpoint), *arguments]) == 1
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_below_fp32_cosines_are_said() -> None:
    vectors = {"vectors": 9, "max_abs_error": 0.018, "min_cosine": 0.947, "mean_cosine": 0.99812}
    measured: dict[str, Any] = {"vectors": vectors, "retrieval": {"max_abs_error": 0.088}}
    plain = "vectors within 1.8e-02, scores within 8.8e-02 of the towers'"
    assert exporter._closeness(measured, "fp32") == plain
    assert exporter._closeness(measured, "int8") == f"{plain}, cosines 0.9470 at least and 0.99812 in the mean"
    # A reranker has no vectors.
    without = {**measured, "vectors": {**vectors, "vectors": 0}}
    assert exporter._closeness(without, "bf16") == "scores within 8.8e-02 of the towers'"


def test_fidelity_is_recorded(repository: Path, checkpoint: Path) -> None:
    report = json.loads((repository / "fidelity.json").read_text())
    assert report["measured"]["vectors"]["max_abs_error"] <= 1e-5
    assert report["measured"]["retrieval"]["kendall_tau"] == 1
    assert set(report["measured"]["steps"]) == set(STEPS)
    assert report["reference"]["package"] == "colpali-engine"
    assert report["versions"]["torch"]
    assert str(checkpoint.parent) not in (repository / "fidelity.json").read_text()
    for ensemble in ("embed_text", "embed_image"):
        assert report["fingerprint"] in (repository / f"mine_{ensemble}" / "config.pbtxt").read_text()


def test_what_was_set_is_served_and_recorded(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` accepts it too, as below: it is what was exported."""
    assert json.loads((repository / "fidelity.json").read_text())["set"] == {LIMIT: PIXELS}
    recipes = [repository / "recipe.json", *repository.glob("mine_preprocess_*/1/recipe.json")]
    assert len(recipes) == 3
    for path in recipes:
        assert json.loads(path.read_text())["preparation"]["limits"]["image_pixels"] == PIXELS
    assert main(["lint", str(repository)]) == 0, capsys.readouterr()


def test_the_golden_pages_are_padded(repository: Path) -> None:
    """Otherwise the recorded errors would say nothing about padding."""
    golden = read_golden(repository / "golden.npz")
    assert (golden["image"]["patch_segments"] < 0).any()
    assert (golden["image"]["late_mask"] == 0).any()
    assert (golden["text"]["late_mask"] == 0).any()
    for path in ("image", "text"):
        np.testing.assert_array_equal(golden[path]["pool_mask"], golden[path]["late_mask"])
        assert golden[path]["dense"].shape == (4, 256)


def test_verify_measures_again(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(repository)]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[2:8]] == [*STEPS, "vectors"]
    assert "Kendall's tau 1.000" in printed
    assert main(["verify", str(repository), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vectors"]["max_abs_error"] <= 1e-4


def truncate_graph(copy: Path) -> str:
    path = copy / "mine_language_model" / "1" / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:-4])
    return "mine_language_model/1/model.onnx.data has changed"


def remove_tokenizer(copy: Path) -> str:
    (copy / "mine_preprocess_text" / "1" / "tokenizer.json").unlink()
    return "mine_preprocess_text/1/tokenizer.json is missing"


def edit_recipe(copy: Path) -> str:
    path = copy / "mine_preprocess_image" / "1" / "recipe.json"
    path.write_text(path.read_text().replace("602112", "301056"))
    return "mine_preprocess_image/1/recipe.json has changed"


def remove_report(copy: Path) -> str:
    (copy / "fidelity.json").unlink()
    return "holds no fidelity.json"


def cut_report(copy: Path) -> str:
    path = copy / "fidelity.json"
    path.write_bytes(path.read_bytes()[:-60])
    return "verify: fidelity.json is not JSON ("


def clear_report(copy: Path) -> str:
    (copy / "fidelity.json").write_text("[]")
    return "fidelity.json says nothing of files, order, measured, tolerance. Restore the file"


def test_the_report_says_how_long_files_are(repository: Path) -> None:
    report = json.loads((repository / "fidelity.json").read_text())
    assert report["sizes"].keys() == report["files"].keys()
    assert report["sizes"]["recipe.json"] == (repository / "recipe.json").stat().st_size


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    def fill() -> None:
        with exporter._complete_or_nothing(tmp_path / "models") as folder:
            (folder / "weights").write_bytes(bytes(2_000_000))
            (folder / "more").symlink_to("/dev/full")
            (folder / "more").write_bytes(b"x")

    wanted = r"models cannot be written: No space left on device\. 2 MB of it were, and are removed again\."
    with pytest.raises(ExportError, match=wanted):
        fill()
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ExportError, match="models cannot be written: File exists"),
        exporter._complete_or_nothing(tmp_path / "file" / "models"),
    ):
        pass


@pytest.mark.parametrize(
    "damage", [truncate_graph, remove_tokenizer, edit_recipe, remove_report, cut_report, clear_report]
)
def test_verify_sees_what_was_changed(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    problem = damage(copy)
    assert main(["verify", str(copy)]) == 1
    assert problem in capsys.readouterr().err


def move_the_projection(copy: Path) -> None:
    path = copy / "mine_late_head" / "1" / "model.onnx.data"
    data = np.fromfile(path, dtype=np.float32)
    data[::7] += 0.01
    data.tofile(path)


def pool_the_padding(copy: Path) -> None:
    class MeanOfAll(DenseHead):
        def forward(self, hidden_states: torch.Tensor, pool_mask: torch.Tensor) -> torch.Tensor:
            return super().forward(hidden_states, pool_mask.abs() + 1)

    tensors = read_golden(copy / "golden.npz")["image"]
    export_graph(dense_step(256, False, (TEXT, IMAGE)), MeanOfAll(), tensors, copy / "mine_dense_head" / "1")


def record_files(copy: Path) -> None:
    report = json.loads((copy / "fidelity.json").read_text())
    report["files"] = file_digests(copy)
    (copy / "fidelity.json").write_text(json.dumps(report))


@pytest.mark.parametrize("spoil", [move_the_projection, pool_the_padding])
def test_verify_sees_graphs_that_compute_something_else(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None]
) -> None:
    """Files as recorded, vectors not: as on a machine whose engine has a defect."""
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    spoil(copy)
    record_files(copy)
    assert main(["verify", str(copy)]) == 1
    assert "vectors differ by" in capsys.readouterr().err


def test_verify_sees_weights_that_overflowed(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a token that no sample has: repositories of earlier versions may hold such."""
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    graph = onnx.load(copy / "mine_language_model" / "1" / "model.onnx", load_external_data=False).graph
    (weight,) = (tensor for tensor in graph.initializer if tensor.name == "embed_tokens.weight")
    place = {entry.key: entry.value for entry in weight.external_data}
    with (copy / "mine_language_model" / "1" / place["location"]).open("r+b") as file:
        file.seek(int(place["offset"]) + int(place["length"]) - 4)
        file.write(np.float32(np.inf).tobytes())
    record_files(copy)
    assert main(["verify", str(copy)]) == 1
    assert "infinity or nan, as those do that overflowed: embed_tokens.weight of mine_lang" in capsys.readouterr().err


def test_verify_takes_what_an_earlier_version_wrote(repository: Path, tmp_path: Path) -> None:
    """One number as the tolerance, and less in the measurement."""
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    report = json.loads((copy / "fidelity.json").read_text())
    report["tolerance"] = 1e-4
    report["measured"]["vectors"] = {"max_abs_error": 1e-6, "min_cosine": 1.0}
    names = ("queries", "pages", "max_abs_error", "kendall_tau", "same_first_page")
    report["measured"]["retrieval"] = {name: report["measured"]["retrieval"][name] for name in names}
    (copy / "fidelity.json").write_text(json.dumps(report))
    assert main(["verify", str(copy)]) == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("disk full")])
def test_an_interrupted_export_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(exporter, "export_graph", fail)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        export(Request(str(checkpoint), "colqwen2", tmp_path / "repository"), say=lambda line: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_killed_export_leaves_nothing(checkpoint: Path, tmp_path: Path, signal_number: signal.Signals) -> None:
    command: list[str | Path] = [Path(sys.executable).parent / "periscope", "export", checkpoint]
    command += ["--recipe", "colqwen2", "--output", tmp_path / "repository"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "writing the graph" in line:
                process.send_signal(signal_number)
                break
        assert "nothing was written" in process.stderr.read()
        assert process.wait() == 130
    assert list(tmp_path.iterdir()) == []


def test_graphs_that_are_not_the_towers_are_not_written(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, honest = export_graph, layers.rotate

    def spoil(*arguments: object) -> object:
        # The exporter traces a rotation that turns the wrong way; the towers ran the right one.
        monkeypatch.setattr("periscope_export.models.vision.rotate", lambda x, angles: honest(x, -angles))
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(exporter, "export_graph", spoil)
    with pytest.raises(ExportError, match="fidelity: vectors differ by"):
        export(Request(str(checkpoint), "colqwen2", tmp_path / "repository"), say=lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_the_output_is_tried_before_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no such checkpoint here: the hub would be asked for it."""
    (tmp_path / "file").touch()
    volume = tmp_path / "volume"
    volume.mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: path == volume)
    for output, reason in (
        (tmp_path / "file" / "models", f"{tmp_path / 'file'} cannot be written to (File exists)"),
        (Path("/proc/models"), "/proc cannot be written to ("),
        (volume, f"{volume} is a mount point"),
    ):
        assert main(["export", "nobody/nothing", "--recipe", "colqwen2", "--output", str(output)]) == 1
        assert capsys.readouterr().err.startswith(f"periscope export: {reason}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "volume"]


def test_a_directory_with_something_in_it_is_left_alone(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", str(checkpoint), "--recipe", "colqwen2", "--output", str(tmp_path)]) == 1
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_name_that_triton_cannot_use_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot name a model"):
        export(Request(str(checkpoint), "colqwen2", tmp_path / "repository", name="../mine"))


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert "vidore/colqwen2-v1.0" in capsys.readouterr().out


def test_activations_that_overflow_fp16_are_refused(tmp_path: Path) -> None:
    checkpoint = make_colqwen2(
        tmp_path / "loud", Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64, deviation=3.0)
    )
    with pytest.raises(ExportError, match=r"mean cosine of vectors is nan"):
        export(Request(str(checkpoint), "colqwen2", tmp_path / "repository", precision="fp16"), lambda _: None)
    assert not (tmp_path / "repository").exists()


def test_a_precision_that_an_engine_does_not_serve_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"onnxruntime does not serve bf16, .*\. Use one of: fp32, fp16\."):
        export(Request(str(checkpoint), "colqwen2", tmp_path / "repository", precision="bf16"), lambda _: None)


def test_what_python_leaves_behind_is_no_change(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    compiled = copy / "mine_preprocess_text" / "1" / "__pycache__" / "model.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"")
    assert main(["verify", str(copy)]) == 0
