"""Requests that are refused: settings, outputs, names and precisions that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from periscope_client.console import main
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (
            "preparation.prompts.query.text=Find",
            "recipe: --set: preparation: the text prompt of the role 'query' must hold {text} once",
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


def test_a_precision_that_an_engine_does_not_serve_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"onnxruntime does not serve bf16, .*\. Use one of: fp32, fp16\."):
        export(Request(str(checkpoint), "colqwen2", tmp_path / "repository", precision="bf16"), lambda _: None)
