"""Adapters of one file side by side, for a graph that chooses among them by row, instead of merged into their base.

A weight W [out, in] stays as its base has it, and gets two more beside it, float32: `<module>.adapters.down.weight`
[N * r, in], the A of all N adapters one below the other, and `<module>.adapters.up.weight` [out, N * r], their B, which
hold the scaling. r is the largest rank in the file; where one is smaller, zeros fill it up and add nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from periscope_export.checkpoint.adapter import Adapter
from periscope_export.checkpoint.source import TensorInfo
from periscope_export.errors import ExportError

# Endings of the names of a weight's adapters, after that of its module.
DOWN, UP = ".adapters.down.weight", ".adapters.up.weight"
_ENDINGS = (DOWN, UP)


class AdapterStack:
    """The adapters of several tasks over base weights: says which weights they add, and makes them one at a time."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        base: Mapping[str, TensorInfo],
        canonical: Callable[[str], str],
        tied: tuple[str, str] | None,
        names: Sequence[str],
    ) -> None:
        """Read as `Adapter` does the adapters of these names, in the order of the stack.

        Raises `ExportError` as it does, and one that lists every key that cannot be chosen by row.
        """
        self._adapters = [Adapter(folder, config, base, canonical, tied, name) for name in names]
        changed = sorted(set().union(*(adapter.keys() for adapter in self._adapters)))
        if problems := [line for name in changed for line in self._misfits(name, names)]:
            listed = "\n  ".join(problems)
            raise ExportError(
                f"adapter {folder.name}: these keys cannot stand beside those of the other tasks:\n  {listed}\n"
                f"Export one of the tasks, merged, with --task: {', '.join(names)}."
            )
        self._changed = {name: self._adapters[0].edit(name) for name in changed}
        self._base = {name: info for name, info in base.items() if name in self._changed}
        layers = [name for name, edit in self._changed.items() if edit.changes]
        self._layer_of = {_beside(name, ending): name for name in layers for ending in _ENDINGS}
        self._rank = max((self._adapters[0].rank(name) for name in layers), default=0)

    def keys(self) -> set[str]:
        """Canonical names of the weights that these adapters change by row, of those of their own, and of others."""
        return self._changed.keys() | self._layer_of.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._changed or name in self._layer_of

    def key(self, name: str) -> str:
        """A key of the file that a weight is made of. Raises `KeyError` where none is."""
        if name not in self._layer_of:
            return self._adapters[0].key(name)
        return self._adapters[0].edit(self._layer_of[name]).parts["A" if name.endswith(DOWN) else "B"]

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of what `apply` returns. Raises `KeyError` where there are no adapters."""
        if name not in self._layer_of:
            return self._adapters[0].whole(name) or self._base[name]
        ranks = len(self._adapters) * self._rank
        outputs, inputs = self._adapters[0].info(self._layer_of[name]).shape
        return TensorInfo((ranks, inputs) if name.endswith(DOWN) else (outputs, ranks), torch.float32)

    def apply(self, name: str, base: Tensor | None) -> Tensor:
        """Return the matrices of a layer's adapters, or the whole weight under them. Raises `KeyError` as `info`."""
        if name not in self._layer_of:
            return self._adapters[0].under(name, base)
        pairs = [adapter.matrices(self._layer_of[name]) for adapter in self._adapters]
        if name.endswith(DOWN):
            return torch.cat([pad(a_RI, (0, 0, 0, self._rank - len(a_RI))) for a_RI, _ in pairs])
        return torch.cat([pad(b_OR, (0, self._rank - b_OR.shape[1])) for _, b_OR in pairs], 1)

    def _misfits(self, name: str, tasks: Sequence[str]) -> Iterator[str]:
        """Yield a line for what the adapters store of one weight that is not two matrices each, or one whole weight."""
        having = [adapter for adapter in self._adapters if name in adapter]
        if lacking := [task for task, adapter in zip(tasks, self._adapters, strict=True) if name not in adapter]:
            yield f"{having[0].key(name)}: there is none of this weight for {', '.join(lacking)}"
            return
        edits = [adapter.edit(name) for adapter in having]
        for task, edit in zip(tasks, edits, strict=True):
            if edit.replacement != edits[0].replacement:
                yield f"{edit.replacement or having[0].key(name)}: a whole weight of {task} alone"
                return
            if edit.changes and (edit.changes.keys() != {"A", "B"} or len(having[0].info(name).shape) != 2):
                yield f"{next(iter(edit.changes.values()))}: no LoRA of a linear layer"
                return


def _beside(name: str, ending: str) -> str:
    return f"{name.removesuffix('.weight')}{ending}"
