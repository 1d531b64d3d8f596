from __future__ import annotations

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from periscope_runtime.bfloat16 import bfloat16_capsule


def test_torch_reads_the_numbers() -> None:
    wanted = torch.tensor([[1.0, -2.5], [3e38, 0.15625]], dtype=torch.bfloat16)
    found = from_dlpack(bfloat16_capsule(wanted.view(torch.int16).numpy()))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, wanted)


def test_an_empty_one() -> None:
    found = from_dlpack(bfloat16_capsule(np.zeros((3, 0, 256), np.int16)))
    assert (found.dtype, tuple(found.shape)) == (torch.bfloat16, (3, 0, 256))
