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

SHAPES = [(3, 5), (), (70,), (2, 3, 4)]


def files_mapped_from(folder: Path) -> set[str]:
    """The inodes of files below a folder, with or without names, that this process maps."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split()[4] for line in lines if str(folder) in line}


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
    assert len(files_mapped_from(tmp_path)) == 1
    del first
    assert not files_mapped_from(tmp_path)


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ExportError, match=r"no room for 4\.0 GB of weights, .*Free as much"):
        mapped_tensors([(1000, 1_000_000)], torch.float32, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_towers_stay_until_the_export_ends_and_their_copies_only_for_a_graph(checkpoint: Path, tmp_path: Path) -> None:
    """All in fp32, one in the graph's precision, which the exporter's rewrite rules would keep until they meet another.

    That none is memory which the system could not take back is measured in test_export_memory.py.
    """
    mapped = {}

    def say(line: str) -> None:
        mapped[line.partition(" (")[0]] = files_mapped_from(tmp_path / ".repository.partial-")

    export(Request(str(checkpoint), "colqwen2", tmp_path / "repository", precision="fp16"), say)
    read = mapped["vision_encoder: writing the graph"]
    # Those of maxsim are none.
    assert len(read) == len({"vision_encoder", "language_model", "late_head"})
    assert mapped["language_model: writing the graph"] == mapped["maxsim: writing the graph"] == read
    assert not files_mapped_from(tmp_path)
