"""The graphs of a repository in a loop, in the engine that it is for."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from e2e.exported import Exported
from periscope_export.exporter import Request, export
from periscope_perf.pages import SMALL_PAGE, page_files, queries, write_pages
from periscope_perf.peers.catalogue import HERE
from periscope_perf.peers.host import Peer, Vectors


def embedded(repository: Path, files: list[Path]) -> tuple[dict[str, str], Vectors]:
    with Peer("bare", sys.executable, HERE / "bare_loop.py", timeout=120.0) as loop:
        loop.load(repository, "", 2)
        assert loop.prepare(repository, files, 2) > 0
        return loop.versions, [*loop.pages(files).vectors, *loop.queries(queries(2)).vectors]


def test_both_engines_make_nearly_the_same_vectors(small: Exported, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    files = write_pages(tmp_path / "pages", page_files(2, SMALL_PAGE))
    other = export(Request(str(small.checkpoint), "colqwen2_dense", tmp_path / "repository", engine="openvino"))
    versions, expected = embedded(small.repository, files)
    assert set(versions) == {"onnxruntime", "numpy", "pillow"}
    versions, found = embedded(other, files)
    assert {"openvino", "numpy", "pillow"} <= set(versions)
    assert len(found) == 4
    for one, true in zip(found, expected, strict=True):
        assert one.shape == true.shape
        # Vectors of length 1: this is their cosine.
        assert (one * true).sum(-1).min() > 0.99
        assert not np.array_equal(one, true)
