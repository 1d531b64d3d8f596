from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from periscope_serve.backends.openvino.mapped_weights import release

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc here")


def resident(file: Path) -> int:
    """Kilobytes of a mapped file in this process's memory."""
    sections = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())
    return sum(int(match[1]) for text in sections if str(file) in text and (match := re.search(r"Rss:\s+(\d+)", text)))


def test_lets_go_of_a_file_that_stays_readable(tmp_path: Path) -> None:
    file = tmp_path / "the weights.bin"
    np.arange(1 << 20, dtype=np.float32).tofile(file)
    weights = np.memmap(file, np.float32, "r")
    assert weights.sum() > 0
    assert resident(file) >= 4096
    release(file)
    assert resident(file) < 100
    np.testing.assert_array_equal(weights[[0, 77, -1]], [0, 77, (1 << 20) - 1])


def test_what_may_be_written_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    np.zeros(1 << 20, np.float32).tofile(file)
    weights = np.memmap(file, np.float32, "c")  # private, and not written back
    weights[:] = 1
    release(file)
    assert weights.min() == 1
