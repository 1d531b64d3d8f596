"""The adapter of the demonstration's retriever: low-rank changes of the language model and of the late projection.

I in, O out, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from periscope_demo.training.model import TrainedRetriever
from periscope_export.models.layers import Linear
from periscope_testing.colqwen2.layout import LORA_TARGETS


class LowRank(nn.Module):
    """A weight [I, O] and a product of rank R on top of it (LoRA, arXiv 2106.09685); nothing at first."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down_IR = nn.Parameter(torch.randn(inputs, rank) / rank)
        self.up_RO = nn.Parameter(torch.zeros(rank, outputs))

    def forward(self, weight_IO: Tensor) -> Tensor:
        """Return the changed weight."""
        return weight_IO + self.down_IR @ self.up_RO


def published_name(name: str) -> str:
    """Return what the published class calls a parameter of `TrainedRetriever`."""
    return name.replace("late_head.projection", "custom_text_proj")


def freeze_into(model: TrainedRetriever, rank: int) -> None:
    """Round the weights to bfloat16, as they are published, freeze them, and put an adapter on top that learns."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.copy_(parameter.to(torch.bfloat16))
    for _, module in targets(model):
        parametrize.register_parametrization(
            module, "weight", LowRank(module.weight.shape[0], module.weight.shape[1], rank)
        )


def targets(model: TrainedRetriever) -> Iterator[tuple[str, Linear]]:
    """Yield the layers that the published adapters change, with the published names of their weights."""
    for name, module in model.named_modules():
        weight = published_name(f"{name}.weight")
        if isinstance(module, Linear) and LORA_TARGETS.fullmatch(weight):
            yield weight, module


def adapter_tensors(model: TrainedRetriever) -> dict[str, Mapping[str, Tensor]]:
    """Return the adapter by the published names of its weights and peft's names of its parts: A [R, I], B [O, R]."""
    found: dict[str, Mapping[str, Tensor]] = {}
    for name, module in targets(model):
        low_rank = getattr(module, "parametrizations").weight[0]  # noqa: B009 - torch adds it at run time
        found[name] = {"lora_A.weight": low_rank.down_IR.detach().T, "lora_B.weight": low_rank.up_RO.detach().T}
    return found
