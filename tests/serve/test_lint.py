"""Findings of `periscope lint` beyond those that keep a repository from loading."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from periscope_client.console import main
from periscope_serve.lint import lint
from serve import toys

FINGERPRINT = 'parameters {{ key: "fingerprint" value {{ string_value: "{}" }} }}\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A graph and two ensembles of one retriever, with its report."""
    toys.write(tmp_path, "toy_double", toys.double(["B", "N"]), toys.DOUBLE)
    for kind in ("text", "image"):
        config = toys.ensemble("toy_double x=x > y=out") + FINGERPRINT.format("abc")
        toys.write(tmp_path, f"toy_embed_{kind}", None, config)
    (tmp_path / "fidelity.json").write_text(json.dumps({"retriever": "toy", "fingerprint": "abc"}))
    return tmp_path


def only(repository: Path) -> str:
    (finding,) = lint([repository])
    return str(finding)


def test_a_sound_repository(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(repository)]) == 0
    assert capsys.readouterr().out == f"sound: {repository}\n"


def test_what_keeps_it_from_loading_comes_first(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "toy_double" / "1" / "model.onnx").unlink()
    assert main(["lint", str(repository)]) == 1
    assert "periscope lint: model 'toy_double': 1/model.onnx is missing" in capsys.readouterr().err


def test_no_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(tmp_path / "nothing")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_a_config_that_is_not_the_graphs(repository: Path) -> None:
    config = repository / "toy_double" / "config.pbtxt"
    config.write_text(config.read_text().replace('"z" data_type: TYPE_FP32', '"z" data_type: TYPE_FP16'))
    assert "configuration expects datatype TYPE_FP16 for output 'z', model provides TYPE_FP32" in only(repository)


def test_a_graph_that_does_not_load(repository: Path) -> None:
    path = repository / "toy_double" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"Neg", b"Nag"))
    assert "onnxruntime cannot load its graph" in only(repository)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_weights_that_overflowed(repository: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = toys.TABLE.copy()
    table[7, 2] = np.inf
    config = toys.config("x INT32 [-1]", "y FP32 [-1,3]", backend=backend)
    for name, rows in (("toy_sound", toys.TABLE), ("toy_pick", table)):
        monkeypatch.setattr(toys, "TABLE", rows)
        folder = toys.write(repository, name, toys.pick() if backend == "onnxruntime" else None, config, external=True)
        if backend == "openvino":
            toys.save_openvino(toys.pick(), folder / "model.xml")
    assert "model 'toy_pick': weights of it hold infinity or nan, as those do that overflowed: table" in only(
        repository
    )


def test_shapes_agree_from_step_to_step(repository: Path) -> None:
    config = repository / "toy_embed_text" / "config.pbtxt"
    config.write_text(
        config.read_text().replace('"out" data_type: TYPE_FP32 dims: [-1]', '"out" data_type: TYPE_FP32 dims: [-1, 4]')
    )
    assert "the tensor 'out' is [-1, -1, 4] for the ensemble's 'out' and [-1, -1] for toy_double's 'y'" in only(
        repository
    )


@pytest.mark.parametrize("changed", ["toy_embed_image/config.pbtxt", "toy_maxsim/config.pbtxt", "fidelity.json"])
def test_fingerprints_agree(repository: Path, changed: str) -> None:
    toys.write(repository, "toy_maxsim", toys.double(["B", "N"]), toys.DOUBLE + FINGERPRINT.format("abc"))
    path = repository / changed
    path.write_text(path.read_text().replace("abc", "def"))
    assert "model 'toy': its fingerprints differ: " in only(repository)
    assert "def in " + changed.partition("/")[0] in only(repository)


@pytest.mark.parametrize("changed", ["toy_rerank", "toy_double"])
def test_fingerprints_of_a_reranker_and_its_steps_agree(tmp_path: Path, changed: str) -> None:
    marked = FINGERPRINT.format("abc")
    toys.write(tmp_path, "toy_double", toys.double(["B", "N"]), toys.DOUBLE + marked)
    toys.write(tmp_path, "toy_rerank", None, toys.ensemble("toy_double x=x > y=out") + marked)
    report = tmp_path / "fidelity.json"
    report.write_text(json.dumps({"retriever": "toy", "fingerprint": "abc"}))
    assert lint([tmp_path]) == []
    config = tmp_path / changed / "config.pbtxt"
    config.write_text(config.read_text().replace("abc", "def"))
    assert "model 'toy': its fingerprints differ: abc in fidelity.json, " in only(tmp_path)
    assert f"def in {changed}" in only(tmp_path)


def test_retrievers_that_share_a_step_may_differ(repository: Path) -> None:
    config = toys.ensemble("toy_double x=x > y=out") + FINGERPRINT.format("xyz")
    toys.write(repository, "other_embed_text", None, config)
    assert lint([repository]) == []


def test_files_are_those_that_were_exported(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = repository / "toy_double" / "1" / "weights.data"
    weights.write_bytes(b"abcd" * 100)
    digests = {"toy_double/1/weights.data": hashlib.sha256(weights.read_bytes()).hexdigest()}
    report = {"retriever": "toy", "fingerprint": "abc", "files": {**digests, "toy_double/config.pbtxt": "tuned"}}
    (repository / "fidelity.json").write_text(json.dumps(report))
    assert lint([repository]) == []
    weights.write_bytes(b"abcd" * 99 + b"abce")
    assert "model 'toy_double': 1/weights.data is not what was exported: it has " in only(repository)
    weights.unlink()
    assert "model 'toy_double': 1/weights.data is missing" in only(repository)


def test_a_config_that_is_gone_or_empty(repository: Path) -> None:
    """Triton would complete the model by its own rules."""
    report = {"retriever": "toy", "fingerprint": "abc", "files": {"toy_double/config.pbtxt": "tuned"}}
    (repository / "fidelity.json").write_text(json.dumps(report))
    config = repository / "toy_double" / "config.pbtxt"
    config.write_bytes(b"")
    assert "model 'toy_double': config.pbtxt is empty. Copy it again" in only(repository)
    config.unlink()
    assert "model 'toy_double': config.pbtxt is missing. Copy it again" in only(repository)


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 3}', "\0"])
def test_a_report_that_cannot_be_read(repository: Path, content: str) -> None:
    (repository / "fidelity.json").write_text(content)
    assert "model 'fidelity.json': " in only(repository)


@pytest.mark.parametrize("content", ["{", "{}", "[]"])
def test_profiles_that_cannot_be_read(repository: Path, content: str) -> None:
    (repository / "toy_double" / "1" / "engine.json").write_text(content)
    assert "model 'toy_double': its engine.json says no profiles" in only(repository)


def test_another_retrievers_report_is_not_its(repository: Path) -> None:
    (repository / "fidelity.json").write_text(json.dumps({"retriever": "other", "fingerprint": "xyz"}))
    assert lint([repository]) == []
