"""Keys and values of the prefixes that prompts share, computed once, when a retriever is exported.

In a causal language model they depend on nothing that comes after ("prefix caching" in the literature). So preparation
leaves a prefix out of its prompt, and attention sees what was kept of it before the other tokens. There is one prefix
for each instruction that has a name, and for each prompt with a constant image one that goes on behind it; prompts that
begin otherwise come whole.

Legend: B rows, T tokens, J kept tokens before a row, S all that attention sees (J + T), A heads of keys, U head
width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from periscope_export.models.layers import merge_heads, split_heads
from periscope_export.models.steps import Step, TensorSpec
from periscope_export.recipes.schema import Recipe
from periscope_runtime.prefixes import Ids
from periscope_runtime.prompt import PromptEncoder

# The kept tokens that come before those of the row: all of one prefix, or none.
PREFIX_INDEX = TensorSpec("prefix_index", "int32", ("B", "J"))


class Kept(NamedTuple):
    """All that one layer attends to before the tokens of a row: keys and values [B, A, J, U], mask bool [T, S]."""

    keys_BAJU: Tensor
    values_BAJU: Tensor
    mask_TS: Tensor


class KeptPrefixes(nn.Module):
    """Rotated keys, and values, of every layer."""

    def __init__(self, prefixes: Iterable[Sequence[tuple[Tensor, Tensor]]]) -> None:
        """Take keys and values [1, A, J, U] of each layer, of each prefix."""
        super().__init__()
        layers = list(zip(*prefixes, strict=True))
        self.layers, self.heads = len(layers), layers[0][0][0].shape[1]
        for number, layer in enumerate(layers):
            for name, parts in zip(("keys", "values"), zip(*layer, strict=True), strict=True):
                self.register_buffer(f"{name}_{number}", merge_heads(torch.cat(parts, 2))[0], persistent=False)

    def forward(self, prefix_index: Tensor, tokens: int) -> list[Kept]:
        """Map int32 [B, J] to what each layer attends to before `tokens` tokens a row."""
        kept, device = prefix_index.shape[1], prefix_index.device
        last_T1 = torch.arange(tokens, device=device).unsqueeze(1) + kept
        mask_TS = torch.arange(kept + tokens, device=device) <= last_T1

        def before(name: str) -> Tensor:
            return split_heads(functional.embedding(prefix_index, self.get_buffer(name)), self.heads)

        return [Kept(before(f"keys_{i}"), before(f"values_{i}"), mask_TS) for i in range(self.layers)]


class KeepsPrefixes(Protocol):
    """A language model that can keep prefixes."""

    def keep(self, prefixes: Sequence[Tensor]) -> None:
        """Compute keys and values of each prefix, ids [J]; from then on `forward` takes `prefix_index` as well."""


def keeps_prefixes(recipe: Recipe) -> bool:
    """Return whether no output of a prefix's tokens is asked for, and nothing but the prefix decides their states.

    These are wanted where each token has a vector, or all have a share in one; they change with what follows where
    attention is bidirectional, and with the adapter where this is chosen by row.
    """
    preparation = recipe.preparation
    unseen = preparation.pools_last and recipe.outputs.late is None
    return recipe.attention == "causal" and unseen and not preparation.stacked


def prefixes_to_keep(steps: Iterable[Step], recipe: Recipe, tokenizer: Path) -> list[Ids]:
    """Return the prefixes that a language model among the steps can keep; none where the recipe has none to keep."""
    able = any(step.keeps_prefixes for step in steps)
    return PromptEncoder(recipe.preparation, tokenizer).prefixes() if keeps_prefixes(recipe) and able else []


def keeping(steps: Iterable[Step], prefixes: Sequence[Ids]) -> tuple[Step, ...]:
    """Return the steps, of which the language model keeps prefixes; as they are where there are none."""
    ids = [torch.from_numpy(ids_J) for ids_J in prefixes]
    return tuple(_keeping(step, ids) if ids and step.keeps_prefixes else step for step in steps)


def _keeping(step: Step, prefixes: Sequence[Tensor]) -> Step:
    return replace(step, inputs=(*step.inputs, PREFIX_INDEX), finish=partial(_keep, prefixes, step.finish))


def _keep(
    prefixes: Sequence[Tensor], first: Callable[..., None] | None, module: KeepsPrefixes, *before: nn.Module
) -> None:
    # An image that prompts begin with is there already.
    if first is not None:
        first(module, *before)
    module.keep(prefixes)
