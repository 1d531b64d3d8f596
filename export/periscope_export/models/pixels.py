"""Patches of bytes to numbers: rescaled and normalised inside the graph, so that bytes travel between the steps.

B rows, P patches, C bytes a patch (channel, frame, row, column).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from periscope_runtime.recipe import ImagePolicy


class Pixels(nn.Module):
    """(x / 255 - mean) / std, channel by channel."""

    mean_C: Tensor
    std_C: Tensor

    def __init__(self, image: ImagePolicy) -> None:
        super().__init__()
        repeats = image.patch_dim // 3
        for name, values in (("mean_C", image.mean), ("std_C", image.std)):
            values_C = torch.tensor(values, dtype=torch.float32, device="cpu").repeat_interleave(repeats)
            self.register_buffer(name, values_C, persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Map uint8 [B, P, C] to float32 [B, P, C]."""
        normalised_BPC: Tensor = (patches.to(torch.float32) * (1 / 255) - self.mean_C) / self.std_C
        return normalised_BPC
