"""The results of an export: its models, graphs, configs, and the report about them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from periscope_client.console import main
from periscope_export.fidelity.record import read_golden
from periscope_export.fidelity.report import closeness

LIMIT, PIXELS = "preparation.limits.image_pixels", 134217728
STEPS = ("vision_encoder", "language_model", "late_head", "dense_head", "maxsim")

# Files of the package whose lines make nodes of these graphs.
OURS = {
    b"families/qwen2_vl.py",
    *(b"models/%s.py" % name for name in (b"decoder", b"layers", b"pixels", b"vision", b"visual_tokens")),
}


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


def test_below_fp32_cosines_are_said() -> None:
    vectors = {"vectors": 9, "max_abs_error": 0.018, "min_cosine": 0.947, "mean_cosine": 0.99812}
    measured: dict[str, Any] = {"vectors": vectors, "retrieval": {"max_abs_error": 0.088}}
    plain = "vectors within 1.8e-02, scores within 8.8e-02 of the towers'"
    assert closeness(measured, "fp32") == plain
    assert closeness(measured, "int8") == f"{plain}, cosines 0.9470 at least and 0.99812 in the mean"
    # A reranker has no vectors.
    without = {**measured, "vectors": {**vectors, "vectors": 0}}
    assert closeness(without, "bf16") == "scores within 8.8e-02 of the towers'"


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


def test_the_report_says_how_long_files_are(repository: Path) -> None:
    report = json.loads((repository / "fidelity.json").read_text())
    assert report["sizes"].keys() == report["files"].keys()
    assert report["sizes"]["recipe.json"] == (repository / "recipe.json").stat().st_size


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert "vidore/colqwen2-v1.0" in capsys.readouterr().out
