"""Faults that are found in a repository before Triton sees it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from periscope_serve.backend_directory import BACKENDS
from periscope_serve.check import check, require_sound
from periscope_serve.errors import BadRepositoryError
from serve import toys

MODEL = toys.double(["B", "N"])
CHAIN = ("double x=x > y=twice", "double x=twice > y=out")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A sound repository: an ONNX model, a Python one, an ensemble, and files Triton leaves alone."""
    toys.write(tmp_path, "double", MODEL, toys.DOUBLE)
    toys.write(tmp_path, "python", "class TritonPythonModel: ...", toys.PYTHON)
    toys.write(tmp_path, "chain", None, toys.ensemble(*CHAIN))
    (tmp_path / "fidelity.json").write_text("{}")
    return tmp_path


def found(repository: Path) -> list[str]:
    return [str(finding) for finding in check([repository], BACKENDS)]


def only(repository: Path) -> str:
    (finding,) = found(repository)
    return finding


def rewire(repository: Path, *steps: str, **more: str) -> None:
    (repository / "chain" / "config.pbtxt").write_text(toys.ensemble(*steps, **more))  # type: ignore[arg-type]


def test_a_sound_repository_has_no_finding(repository: Path) -> None:
    toys.write(repository, "completed", MODEL)
    assert found(repository) == []


def test_missing_model_py(repository: Path) -> None:
    (repository / "python" / "1" / "model.py").unlink()
    assert only(repository).startswith("model 'python': 1/model.py is missing. Export the model again, or set")


def test_missing_model_onnx(repository: Path) -> None:
    (repository / "double" / "1" / "model.onnx").unlink()
    assert "model 'double': 1/model.onnx is missing" in only(repository)


def test_default_model_filename(repository: Path) -> None:
    config = repository / "double" / "config.pbtxt"
    config.write_text(config.read_text() + 'default_model_filename: "d.onnx"')
    assert "model 'double': 1/d.onnx is missing" in only(repository)
    (repository / "double" / "1" / "model.onnx").rename(repository / "double" / "1" / "d.onnx")
    assert found(repository) == []


def test_missing_and_short_external_data(repository: Path) -> None:
    folder = toys.write(
        repository, "external", toys.pick(), toys.config("x INT32 [-1]", "y FP32 [-1,3]"), external=True
    )
    assert found(repository) == []
    weights = folder / "weights.data"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert only(repository).startswith("model 'external': the weights file 1/weights.data has 95 bytes of at least 96")
    weights.unlink()
    assert only(repository).startswith("model 'external': the weights file 1/weights.data is missing")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x0a\xff\xff"])
def test_not_an_onnx_file(repository: Path, content: bytes) -> None:
    (repository / "double" / "1" / "model.onnx").write_bytes(content)
    assert "model 'double': 1/model.onnx is not an ONNX model" in only(repository)


def test_a_config_that_does_not_parse(repository: Path) -> None:
    (repository / "python" / "config.pbtxt").write_text('backend: "python"\nnonsense: 1\n')
    assert only(repository).startswith("model 'python': config.pbtxt does not parse, line:column 2:1 : ")
    assert "nonsense" in only(repository)


def test_no_version_folder(repository: Path) -> None:
    (repository / "chain" / "1").rmdir()
    assert "model 'chain': it has no version folder. Make an empty folder 1" in only(repository)


def test_version_policies(repository: Path) -> None:
    config = repository / "python" / "config.pbtxt"
    (repository / "python" / "2").mkdir()
    assert "model 'python': 2/model.py is missing" in only(repository)
    config.write_text(toys.PYTHON + "version_policy { specific { versions: [1] } }")
    assert found(repository) == []
    config.write_text(toys.PYTHON + "version_policy { specific { versions: [1, 7] } }")
    assert "its version policy asks for version 7, which is missing" in only(repository)
    config.write_text(toys.PYTHON + "version_policy { all {} }")
    assert "model 'python': 2/model.py is missing" in only(repository)
    config.write_text(toys.PYTHON + "version_policy { latest { num_versions: 2 } }")
    assert "model 'python': 2/model.py is missing" in only(repository)


def test_a_folder_that_is_no_model(repository: Path) -> None:
    (repository / ".cache").mkdir()
    assert "model '.cache': neither config.pbtxt nor a model file says which backend runs it" in only(repository)


def test_a_name_that_differs(repository: Path) -> None:
    (repository / "python" / "config.pbtxt").write_text('name: "other"\n' + toys.PYTHON)
    assert "model 'python': config.pbtxt calls it 'other'" in only(repository)


def test_a_name_that_a_shell_would_break(repository: Path) -> None:
    (repository / "python").rename(repository / "py thon")
    assert "model 'py thon': its name holds characters" in only(repository)


def test_a_backend_that_is_not_here(repository: Path) -> None:
    config = repository / "double" / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'platform: "tensorrt_plan"'))
    (repository / "double" / "1" / "model.plan").touch()
    assert "model 'double': it needs the backend 'tensorrt', and the embedded server has only" in only(repository)
    assert check([repository]) == []


def test_the_same_model_twice(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    toys.write(other, "double", MODEL, toys.DOUBLE)
    (finding,) = check([repository, other], BACKENDS)
    assert finding.model == "double"
    assert "it exists twice" in finding.problem


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        (("absent x=x > y=out",), "step 1 (absent): there is no such model"),
        (("double xx=x > y=out",), "step 1 (double): input_map names 'xx', which the model lacks. It has: x"),
        (("double xx=x > y=out",), "step 1 (double): input_map lacks x"),
        (("double x=x > q=out",), "step 1 (double): output_map names 'q', which the model lacks. It has: y, z"),
        (("double x=lost > y=out",), "no step gives the tensor 'lost', and it is no input"),
        (("double x=x > y=other",), "no step gives the output 'out'"),
        (("double x=x > y=out z=spare",), "nothing reads the tensor 'spare'"),
        (("double x=x > y=out", "double x=x > y=out"), "the tensor 'out' has more than one source"),
        ((), "the ensemble has no step"),
    ],
)
def test_ensemble_wiring(repository: Path, steps: tuple[str, ...], problem: str) -> None:
    rewire(repository, *steps)
    assert any(finding.startswith(f"model 'chain': {problem}") for finding in found(repository))


def test_ensemble_types(repository: Path) -> None:
    rewire(repository, *CHAIN, outputs="out INT32 [-1]")
    assert (
        "the tensor 'out' has several types: TYPE_INT32 for the ensemble's 'out'; TYPE_FP32 for double's 'y'"
        in only(repository)
    )
    toys.write(repository, "pick", toys.pick(), toys.config("x INT32 [-1]", "y FP32 [-1,3]"))
    rewire(repository, "double x=x > y=ids", "pick x=ids > y=out", outputs="out FP32 [-1,3]")
    assert "the tensor 'ids' has several types: TYPE_FP32 for double's 'y'; TYPE_INT32 for pick's 'x'" in only(
        repository
    )


def test_ensemble_batch(repository: Path) -> None:
    (repository / "double" / "config.pbtxt").write_text(toys.config("x FP32 [-1]", "y FP32 [-1]", batch=4))
    assert all("max_batch_size 8 is above the step's 4" in finding for finding in found(repository))
    assert len(found(repository)) == 2


def test_ensemble_version(repository: Path) -> None:
    config = repository / "chain" / "config.pbtxt"
    config.write_text(config.read_text().replace("model_version: -1", "model_version: 3", 1))
    assert "step 1 (double): version 3 is not served" in only(repository)


def test_an_optional_input_may_be_left_out(repository: Path) -> None:
    config = repository / "python" / "config.pbtxt"
    config.write_text(toys.PYTHON + 'input [{ name: "w" data_type: TYPE_FP32 dims: [1] optional: true }]')
    rewire(repository, "python x=x > y=out")
    assert found(repository) == []


def test_a_step_whose_config_triton_completes_is_left_to_triton(repository: Path) -> None:
    (repository / "double" / "config.pbtxt").unlink()
    assert found(repository) == []


def test_every_finding_is_told_at_once(repository: Path) -> None:
    (repository / "python" / "1" / "model.py").unlink()
    (repository / "double" / "1" / "model.onnx").unlink()
    with pytest.raises(BadRepositoryError) as caught:
        require_sound([repository], BACKENDS)
    assert "model 'python': 1/model.py is missing" in str(caught.value)
    assert "model 'double': 1/model.onnx is missing" in str(caught.value)


def test_no_folder_and_no_model(tmp_path: Path) -> None:
    with pytest.raises(BadRepositoryError, match="there is no folder"):
        check([tmp_path / "absent"])
    with pytest.raises(BadRepositoryError, match="there is no model in"):
        check([tmp_path])


def read_by_another_user(repository: Path) -> str:
    os.seteuid(65534)
    try:
        with pytest.raises(BadRepositoryError) as caught:
            check([repository])
    finally:
        os.seteuid(0)
    return str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("closed", ["repository", "repository/double/config.pbtxt", "repository/double/1/model.onnx"])
def test_a_repository_that_this_user_may_not_read(closed: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        toys.write(Path(folder, "repository"), "double", toys.double(["B", "N"]), toys.DOUBLE)
        Path(folder, closed).chmod(0)
        said = read_by_another_user(Path(folder, "repository"))
        assert f"{folder}/{closed}" in said
        assert " cannot be read: Permission denied. Let the user that runs this read the whole repository" in said
