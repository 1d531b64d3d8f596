"""Refusals before Triton starts, because the machine has too little of something, or files have changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from periscope_export.recipes.loading import load_recipe
from periscope_export.repository.writing import write_preparation
from periscope_serve import shared_memory
from periscope_serve.errors import BadRepositoryError, StartError
from periscope_serve.server import Server
from serve import toys

START = """
import resource, sys
from pathlib import Path
from periscope_serve.errors import ServeError
from periscope_serve.server import Server
{}
server = Server([sys.argv[1]], grpc_port=0, http_port=0, metrics_port=0, log=Path(sys.argv[2]))
try:
    server.start(cancelled=lambda: True)
except ServeError as error:
    print(error)
print(Path(sys.argv[2]).read_text() if Path(sys.argv[2]).exists() else "")
print(resource.getrlimit(resource.RLIMIT_NOFILE))
server.stop()
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    made = tmp_path / "repository"
    toys.write(made, "double", toys.double(["B", "N"]), toys.DOUBLE)
    return made


def refused(repository: Path, verify_files: bool = False) -> str:
    server = Server([repository], grpc_port=0, http_port=0, metrics_port=0, verify_files=verify_files)
    with pytest.raises((StartError, BadRepositoryError)) as caught:
        server.start()
    return str(caught.value)


def start(repository: Path, before: str = "", mount: str = "") -> str:
    """The output of a process that starts a server and ends it at once; `before` it does so, and with a small tmpfs."""
    command = [sys.executable, "-c", START.format(before), str(repository), str(repository.parent / "log")]
    if mount:
        if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
            pytest.skip("nothing can be mounted here")
        command = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs {mount} && exec "$@"', "sh", *command]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        return tmp_path / name

    return make


def test_a_temporary_folder_that_a_shell_takes_apart(repository: Path, temporary: Callable[[str], Path]) -> None:
    folder = temporary("two words")
    assert f"the temporary folder {folder} has a name that a shell reads in its own way" in refused(repository)
    assert not list(folder.iterdir())


def test_a_temporary_folder_that_is_gone(repository: Path, temporary: Callable[[str], Path]) -> None:
    temporary("gone").rmdir()
    assert "no temporary folder can be made: No such file or directory. Set TMPDIR" in refused(repository)


def test_a_temporary_folder_without_room(repository: Path, tmp_path: Path) -> None:
    said = "the temporary folder {} has no room for Triton's programs ({}), which take "
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))"
    assert said.format(tempfile.gettempdir(), "File too large") in start(repository, limit)
    small = tmp_path / "small"
    small.mkdir()
    before = f"import tempfile; tempfile.tempdir = {str(small)!r}"
    assert said.format(small, "No space left on device") in start(repository, before, f"-o size=1m tmpfs {small}")
    assert "is mounted noexec" in start(repository, before, f"-o noexec tmpfs {small}")


def test_a_tmpdir_that_cannot_be_written_to_is_said(repository: Path) -> None:
    said = start(repository, "import os, tempfile; os.environ['TMPDIR'] = '/nowhere'; tempfile.tempdir = None")
    assert "periscope serve: nothing can be written to /nowhere, the folder that TMPDIR names: /" in said
    said = start(repository, "import os, tempfile; os.environ['TMPDIR'] = tempfile.gettempdir() + '/'")
    assert "TMPDIR" not in said


def test_no_shared_memory(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", repository / "none")
    assert "exchange tensors: No such file or directory. Mount a tmpfs there" in refused(repository)


def test_open_files(repository: Path) -> None:
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, ({}, {}))"
    assert "may open 64 files, and Triton needs 71 for 1 models" in start(repository, limit.format(64, 64))
    said = start(repository, limit.format(200, 300))
    assert "periscope serve: this process may open 300 files, which leaves 229 for connections" in said
    assert said.endswith("(300, 300)\n")


def test_a_number_of_cpus_that_is_none(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERISCOPE_CPUS", "some")
    assert "PERISCOPE_CPUS is 'some'. Set it to a whole number above 0" in refused(repository)


def test_shared_memory(tmp_path: Path) -> None:
    """A page of ColQwen2 at its limit: 3 MiB of patches, out of preparation and into the tower, and what follows."""
    repository = tmp_path / "repository"
    tokenizer = resources.files("periscope_demo") / "retriever" / "colqwen2-demo" / "tokenizer.json"
    write_preparation(repository, "r", load_recipe("colqwen2"), Path(str(tokenizer)))
    shutil.rmtree(repository / "r_preprocess_text")
    config = toys.config("IMAGE STRING [1]", "patches UINT8 [-1,-1,1176]", backend="python")
    (repository / "r_preprocess_image/config.pbtxt").write_text(
        config + 'parameters { key: "path" value { string_value: "image" } }'
    )
    tower = toys.config("patches UINT8 [-1,-1,1176]", "visual_tokens FP32 [-1,256]", backend="python")
    toys.write(repository, "r_vision_encoder", "class TritonPythonModel: pass", tower)
    ensemble = toys.ensemble(
        "r_preprocess_image IMAGE=IMAGE > patches=p",
        "r_vision_encoder patches=p > visual_tokens=v",
        inputs="IMAGE STRING [1]",
        outputs="v FP32 [-1,256]",
    )
    toys.write(repository, "r_embed_image", None, ensemble)
    # 768 visual tokens, 4 patches each.
    needed = 2 + (2 * 768 * 4 * 1176 + 768 * 256 * 4) / (1 << 20)
    assert 9 < needed < 10
    said = start(repository, mount="-o size=8m tmpfs /dev/shm")
    assert "/dev/shm has 8 MiB left, and the largest page of r_embed_image takes 10. Make it larger" in said
    assert "/dev/shm" not in start(repository, mount="-o size=12m tmpfs /dev/shm")


def test_files_of_another_size_are_refused_and_of_another_content_when_asked(repository: Path) -> None:
    file = repository / "double" / "1" / "model.onnx"
    sound = file.read_bytes()
    name = "double/1/model.onnx"
    report = {"files": {name: hashlib.sha256(sound).hexdigest()}, "sizes": {name: len(sound)}}
    (repository / "fidelity.json").write_text(json.dumps(report))
    file.write_bytes(sound + b"\x2a\x00")
    wanted = f"1/model.onnx is not what was exported: it has {len(sound) + 2} bytes, and had {len(sound)}"
    assert f"model 'double': {wanted}" in refused(repository)
    file.write_bytes(sound.replace(b"toy", b"tay"))
    assert "model 'double': 1/model.onnx is not what was exported: it has " in refused(repository, verify_files=True)


def test_a_graph_that_was_cut(repository: Path) -> None:
    file = repository / "double" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-5])
    assert "model 'double': 1/model.onnx is not an ONNX model, it does not parse as protobuf" in refused(repository)
