"""An export is complete or absent: whatever stops it leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from periscope_export import exporter
from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_export.graphs.graph import export_graph
from periscope_export.models import layers
from periscope_export.repository.folder import complete_or_nothing
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    def fill() -> None:
        with complete_or_nothing(tmp_path / "models") as folder:
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
        complete_or_nothing(tmp_path / "file" / "models"),
    ):
        pass


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


def test_activations_that_overflow_fp16_are_refused(tmp_path: Path) -> None:
    checkpoint = make_colqwen2(
        tmp_path / "loud", Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64, deviation=3.0)
    )
    with pytest.raises(ExportError, match=r"mean cosine of vectors is nan"):
        export(Request(str(checkpoint), "colqwen2", tmp_path / "repository", precision="fp16"), lambda _: None)
    assert not (tmp_path / "repository").exists()
