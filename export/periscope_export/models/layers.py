"""The few layers that all towers are made of. Batch first, inputs that vary come in as tensors.

B rows, S sequence, I in (of heads A * U), O out, A heads, U head width, F rotary frequencies (U / 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Module):
    """x @ weight + bias. The weight is stored [I, O], so that the graph holds a plain matrix product.

    Published checkpoints store [O, I]; a transpose in the graph would be folded by every engine at every start, into
    a second copy of the weights. A published convolution whose stride is its kernel is stored the same way, flattened.
    `adapters` are those of several tasks, where a step has them (`task_adapters.py`).
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.adapters: nn.Module | None = None

    def forward(self, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Map [..., I] to [..., O]; `chosen` says which of the adapters counts for each row."""
        y = x @ self.weight
        y = y if self.bias is None else y + self.bias
        return y if self.adapters is None else y + self.adapters(x, chosen)


class RMSNorm(nn.Module):
    """Root mean square normalisation over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., H]."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class ShiftedRMSNorm(nn.Module):
    """Gemma's root mean square normalisation: the weight is stored less one.

    Computed in float32 until after the product. One is added there too, in the graph: where the sum is rounded to half
    precision, a weight near zero is lost.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., H]."""
        weight = 1 + self.weight.to(torch.float32)
        return functional.rms_norm(x.to(torch.float32), self.weight.shape, weight, self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, with bias."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [..., H]."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Rotation(nn.Module):
    """Cosines and sines that rotate queries and keys; frequency f turns by position x theta^(-2f / width)."""

    def __init__(self, width: int, theta: float) -> None:
        super().__init__()
        frequencies_F = theta ** -(torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width)
        self.register_buffer("frequencies_F", frequencies_F, persistent=False)

    def angles(self, positions: Tensor) -> Tensor:
        """Map positions [...] to angles [..., F] in float32."""
        assert isinstance(self.frequencies_F, Tensor)
        return positions.to(torch.float32).unsqueeze(-1) * self.frequencies_F


class MultiRotation(Rotation):
    """Rotation by three rows of positions (M-RoPE, arXiv 2409.12191): `axes` says which row turns each frequency.

    Plain rotations are those by three equal rows, which is what preparation sends for them.
    """

    def __init__(self, width: int, theta: float, axes: Sequence[int]) -> None:
        super().__init__(width, theta)
        self.register_buffer("axis_F", torch.tensor(axes, device="cpu"), persistent=False)

    def angles(self, positions: Tensor) -> Tensor:
        """Map positions [B, 3, S] to angles [B, S, F] in float32."""
        assert isinstance(self.axis_F, Tensor)
        assert isinstance(self.frequencies_F, Tensor)
        positions_BSF = positions.to(torch.float32).index_select(1, self.axis_F).transpose(1, 2)
        return positions_BSF * self.frequencies_F


def contiguous_axes(sections: Sequence[int]) -> list[int]:
    """Return which row of positions turns each frequency, where the sections of the rows follow each other.

    >>> contiguous_axes((1, 2, 2))
    [0, 1, 1, 2, 2]
    """
    return [axis for axis, section in enumerate(sections) for _ in range(section)]


def rotate(x_BASU: Tensor, angles_BSF: Tensor) -> Tensor:
    """Rotate the pairs (d, d + D/2) by their angles ("rotate half"), in float32."""
    angles_B1SF = angles_BSF.unsqueeze(1)
    cos, sin = angles_B1SF.cos(), angles_B1SF.sin()
    # By sizes, not by `chunk`: OpenVINO knows a rotation, and keeps its angles in float32, only where they are written.
    frequencies = angles_BSF.shape[-1]
    first, second = x_BASU.to(torch.float32).split((frequencies, frequencies), dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x_BASU.dtype)


def split_heads(x_BSI: Tensor, heads: int) -> Tensor:
    """[B, S, A*U] -> [B, A, S, U]."""
    return x_BSI.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x_BASU: Tensor) -> Tensor:
    """[B, A, S, U] -> [B, S, A*U]."""
    return x_BASU.transpose(1, 2).flatten(-2)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


# Names in published configs: gelu, gelu_pytorch_tanh, quick_gelu, silu.
Activation = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "quick_gelu": _quick_gelu,
    "silu": functional.silu,
}
