"""Weights in a file: nobody sees the file, it goes with its tensors, and a full disk is an error, not a crash."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from periscope_export.errors import ExportError
from periscope_export.exporter import Request, export
from periscope_export.models.mapped import mapped_tensors
from periscope_testing.colqwen2.checkpoint import make_colqwen2
from periscope_testing.qwen2_vl import Qwen2VLSizes

SHAPES = [(3, 5), (), (70,), (2, 3, 4)]


def mapped_from(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_apart_and_hold_what_is_written(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = mapped_tensors(SHAPES, dtype, tmp_path)
    assert [tuple(tensor.shape) for tensor in tensors] == SHAPES
    assert {tensor.dtype for tensor in tensors} == {dtype}
    assert not any(tensor.any() for tensor in tensors)
    for number, tensor in enumerate(tensors, start=1):
        assert tensor.data_ptr() % 64 == 0
        tensor.fill_(number)
    assert all((tensor == number).all() for number, tensor in enumerate(tensors, start=1))
    assert mapped_tensors([], dtype, tmp_path) == []


def test_the_file_has_no_name_and_goes_with_the_last_tensor(tmp_path: Path) -> None:
    first, *others = mapped_tensors(SHAPES, torch.float32, tmp_path)
    assert list(tmp_path.iterdir()) == []
    del others
    assert mapped_from(tmp_path)
    del first
    assert not mapped_from(tmp_path)


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ExportError, match=r"no room for 4\.0 GB of weights, .*Free as much"):
        mapped_tensors([(1000, 1_000_000)], torch.float32, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_tower_is_gone_before_the_next_is_read(tmp_path: Path) -> None:
    """The exporter's own rewrite rules would keep it until they meet another."""
    checkpoint = make_colqwen2(
        tmp_path / "made", Qwen2VLSizes(vision_layers=1, language_layers=1, mlp=64), adapter=None
    )
    held = {}

    def say(line: str) -> None:
        if "reading weights" in line or "writing the graph" in line:
            held[line.partition(" (")[0]] = mapped_from(tmp_path / ".repository.partial-")

    export(Request(str(checkpoint), "colqwen2", tmp_path / "repository", precision="fp16"), say)
    assert held["vision_encoder: writing the graph"] is held["language_model: writing the graph"] is True
    assert held["vision_encoder"] is held["language_model"] is held["late_head"] is held["maxsim"] is False
