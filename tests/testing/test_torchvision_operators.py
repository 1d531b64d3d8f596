"""torchvision's operators are declared where its own library does not fit torch, and only there."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from periscope_testing import torchvision_operators
from periscope_testing.torchvision_operators import declare_torchvision_operators


def test_a_library_that_fits_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(torchvision_operators, "_library", [])
    monkeypatch.setattr(torch.ops, "load_library", lambda path: loaded.append(path.name))
    declare_torchvision_operators()
    # Defined a second time they would end the process.
    assert (loaded, torchvision_operators._library) == (["_C.so"], [])


def test_torchvision_can_be_imported_in_a_new_process() -> None:
    code = (
        "from periscope_testing.torchvision_operators import declare_torchvision_operators as declare\n"
        "declare(); declare()\n"
        "import torchvision, torch\n"
        "print(torch.ops.torchvision.nms)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "torchvision.nms"), done.stderr
