"""Findings of `periscope verify`: files that changed, graphs that compute something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from periscope_client.console import main
from periscope_export.fidelity.record import file_digests, read_golden
from periscope_export.graphs.graph import export_graph
from periscope_export.models.heads import DenseHead, dense_step
from periscope_runtime.paths import IMAGE, TEXT

STEPS = ("vision_encoder", "language_model", "late_head", "dense_head", "maxsim")


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


def test_what_python_leaves_behind_is_no_change(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(repository, copy)
    compiled = copy / "mine_preprocess_text" / "1" / "__pycache__" / "model.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"")
    assert main(["verify", str(copy)]) == 0
