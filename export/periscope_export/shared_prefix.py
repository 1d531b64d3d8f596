"""Keys and values of the prefix that all prompts of a retriever share, computed once, when it is exported.

In a causal language model they depend on nothing that comes after ("prefix caching" in the literature). So preparation
leaves the prefix out of a prompt, and attention sees what was kept of it before the other tokens. Prompts
that begin otherwise, with an instruction of their own, come whole.

Legend: B rows, K kept tokens, T tokens, S all that attention sees (K + T), N heads of keys, D head width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.layers import merge_heads, split_heads
from periscope_export.recipe import Recipe
from periscope_export.steps import Step, TensorSpec

# Which of the kept tokens come before those of the row, in order: all, or none.
PREFIX_INDEX = TensorSpec("prefix_index", "int32", ("B", "K"))


class Kept(NamedTuple):
    """What one layer attends to before the tokens of a row: keys and values [B, N, K, D], mask bool [T, S]."""

    keys_BNKD: Tensor
    values_BNKD: Tensor
    mask_TS: Tensor


class SharedPrefix(nn.Module):
    """Rotated keys, and values, of every layer."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take keys and values of each layer, [1, N, K, D]."""
        super().__init__()
        self.layers, self.heads = len(layers), layers[0][0].shape[1]
        for layer, (keys_1NKD, values_1NKD) in enumerate(layers):
            self.register_buffer(f"keys_{layer}", merge_heads(keys_1NKD)[0], persistent=False)
            self.register_buffer(f"values_{layer}", merge_heads(values_1NKD)[0], persistent=False)

    def forward(self, prefix_index: Tensor, tokens: int) -> list[Kept]:
        """Map int32 [B, K] to what each layer attends to before `tokens` tokens a row."""
        kept, device = prefix_index.shape[1], prefix_index.device
        last_T1 = torch.arange(tokens, device=device).unsqueeze(1) + kept
        mask_TS = torch.arange(kept + tokens, device=device) <= last_T1

        def before(name: str) -> Tensor:
            return split_heads(functional.embedding(prefix_index, self.get_buffer(name)), self.heads)

        return [Kept(before(f"keys_{layer}"), before(f"values_{layer}"), mask_TS) for layer in range(self.layers)]


class KeepsPrefix(Protocol):
    """A language model that can keep a prefix."""

    def keep(self, ids_K: Tensor) -> None:
        """Compute keys and values of a prefix; from then on `forward` takes `prefix_index` as well."""


def keeping(steps: Iterable[Step], recipe: Recipe, ids_K: npt.NDArray[np.int32]) -> tuple[Step, ...]:
    """Return the steps with a language model that keeps a prefix, where no output of its tokens is asked for.

    Others come back as they are: states of the prefix are wanted where each token has a vector, or all have a share in
    one, and change with what follows where attention is bidirectional.
    """
    wanted = recipe.attention == "causal" and recipe.preparation.pooling == "last" and recipe.outputs.late is None
    if not wanted or not len(ids_K):
        return tuple(steps)
    return tuple(_keeping(step, ids_K) if step.keeps_prefix else step for step in steps)


def _keeping(step: Step, ids_K: npt.NDArray[np.int32]) -> Step:
    return replace(step, inputs=(*step.inputs, PREFIX_INDEX), finish=partial(_keep, torch.from_numpy(ids_K)))


def _keep(ids_K: Tensor, module: KeepsPrefix) -> None:
    module.keep(ids_K)
