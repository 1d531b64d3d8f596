"""Merging a LoRA or DoRA adapter into its base, tensor by tensor.

For a module with weight W [out, in] an adapter stores A [r, in] and B [out, r]. The merged weight is W + s B A (LoRA,
arXiv 2106.09685), or m (W + s B A) / |W + s B A| with one norm and one m an output row (DoRA, arXiv 2402.09353). An
embedding stores W the other way round, [rows, width], with A [r, rows] and B [width, r]; so does a linear layer under
`fan_in_fan_out`. Whole weights can be stored too (`modules_to_save`, biases); they replace the base's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from periscope_export.checkpoint.adapter_config import LoraSettings
from periscope_export.checkpoint.adapter_keys import Edit, Part, adapters_of, sort_keys
from periscope_export.checkpoint.source import TensorInfo, WeightSource
from periscope_export.errors import ExportError, WrongBaseError


class Adapter:
    """A LoRA or DoRA adapter over base weights: says which weights it changes, and changes them one at a time."""

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        base: Mapping[str, TensorInfo],
        canonical: Callable[[str], str],
        tied: tuple[str, str] | None = None,
        task: str | None = None,
    ) -> None:
        """Read the names and shapes in an adapter folder and hold them against its base.

        `config` is its adapter_config.json; `base` maps canonical weight names to what the base holds, `tied` are two
        of them that are one weight there. `task` names the one adapter to merge of a file that holds one a task. Raises
        `ExportError` for options that cannot be merged, for a task that the file has no adapter of, and one that lists
        every key that is not understood, lacks its counterpart, or does not fit the base.
        """
        self._settings = LoraSettings(config)
        self._source = WeightSource.find(folder, ("adapter_model", "adapter_model"))
        if task is not None and task not in (found := adapters_of(self._source.keys())):
            raise ExportError(
                f"adapter {folder.name}: there is none of the task {task!r} in its file, which "
                f"{'has ' + ', '.join(found) if found else 'is of no task'}. Give the file that was published with "
                "it, or export one of the recipe's tasks that is there, with --task."
            )
        self._of_several = task is not None
        self._edits, problems = sort_keys(self._source.keys(), canonical, task)
        for name, edit in self._edits.items():
            problems += self._misfits(edit, base.get(name))
        problems += self._half_tied(tied or ())
        if problems:
            listed = "\n  ".join(sorted(problems))
            raise WrongBaseError(
                f"adapter {folder.name}: these keys cannot be merged into the base:\n  {listed}\n"
                "Check that this is the base it was trained on (--base) and that the adapter's file is complete."
            )
        self._infos = {name: self._result(edit, base.get(name)) for name, edit in self._edits.items()}

    def keys(self) -> set[str]:
        """Canonical names of the weights that this adapter changes or adds."""
        return set(self._edits)

    def __contains__(self, name: str) -> bool:
        return name in self._edits

    def key(self, name: str) -> str:
        """A key of the file that changes a weight. Raises `KeyError` where none does."""
        edit = self._edits[name]
        return edit.replacement or next(iter(edit.parts.values()))

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype after the change. Raises `KeyError` where the adapter changes nothing."""
        return self._infos[name]

    def edit(self, name: str) -> Edit:
        """All that is stored about a weight. Raises `KeyError` where the adapter changes nothing."""
        return self._edits[name]

    def rank(self, name: str) -> int:
        """Rank of the change of a weight. Raises `KeyError` where the adapter changes nothing."""
        return self._settings.rank(self._edits[name].module)

    def whole(self, name: str) -> TensorInfo | None:
        """Shape and dtype of the weight that replaces the base's, None where none does. Raises `KeyError` as `edit`."""
        replacement = self._edits[name].replacement
        return None if replacement is None else self._source.info(replacement)

    def under(self, name: str, base: torch.Tensor | None) -> torch.Tensor:
        """Return the weight that the change is of: the base's, or one that replaces it. Raises `KeyError` as `edit`."""
        replacement = self._edits[name].replacement
        weight = base if replacement is None else self._source.read(replacement)
        assert weight is not None  # a change of nothing is a misfit
        return weight

    def matrices(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A [r, in] and s B [out, r] of a weight, fp32. Raises `KeyError` as `edit`."""
        edit = self._edits[name]
        a, b = (self._read(edit, part).flatten(1) for part in edit.matrices)
        return a, b * self._settings.scaling(edit.module)

    def apply(self, name: str, base: torch.Tensor | None) -> torch.Tensor:
        """Return the weight after the change: a new fp32 tensor where it is merged, else the one that replaces it.

        `base` is the base's tensor, or None where it has none; it stays as it is. Raises `KeyError` where the adapter
        changes nothing.
        """
        edit, weight = self._edits[name], self.under(name, base)
        if "added_bias" in edit.parts:
            return torch.add(weight.float(), self._read(edit, "added_bias"), alpha=self._settings.scaling(edit.module))
        return self._merge(weight, edit) if edit.changes else weight

    def _merge(self, weight: torch.Tensor, edit: Edit) -> torch.Tensor:
        merged = weight.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        # `rows` [out, in] is a view of the new tensor: everything below happens in place, so that a merge costs one
        # tensor of the weight's size and not three.
        rows = merged.T if self._is_transposed(edit) else merged.flatten(1)
        a, b = (self._read(edit, part).flatten(1) for part in edit.matrices)
        rows.addmm_(b, a, alpha=self._settings.scaling(edit.module))
        if "magnitude_vector" in edit.parts:
            magnitude = self._read(edit, "magnitude_vector").flatten()
            rows.mul_((magnitude / torch.linalg.vector_norm(rows, dim=1)).unsqueeze(1))
        return merged

    def _read(self, edit: Edit, part: Part) -> torch.Tensor:
        return self._source.read(edit.parts[part]).float()

    def _is_transposed(self, edit: Edit) -> bool:
        return self._settings.transposed or "embedding_A" in edit.parts

    def _result(self, edit: Edit, base: TensorInfo | None) -> TensorInfo:
        info = base if edit.replacement is None else self._source.info(edit.replacement)
        assert info is not None  # a change of nothing is a misfit
        return TensorInfo(info.shape, torch.float32) if edit.changes else info

    def _misfits(self, edit: Edit, base: TensorInfo | None) -> Iterator[str]:
        """Yield a line for each stored key of one weight that cannot be merged."""
        own = None if edit.replacement is None else self._source.info(edit.replacement)
        if own is not None:
            if base is not None and own.shape != base.shape:
                yield f"{edit.replacement}: shape {list(own.shape)}, but the base has {list(base.shape)}"
            # A file of several adapters may hold what all of them change, as its base may.
            if base is None and not (self._settings.saves(edit.module) or self._of_several):
                yield f"{edit.replacement}: the base has no {edit.weight}, and modules_to_save does not name it"
        if "saved" in edit.parts and len(edit.parts) > 1:
            others = sorted(key for part, key in edit.parts.items() if part != "saved")
            yield f"{edit.parts['saved']}: stored whole, beside {', '.join(others)}"
        elif (changed := base or own) is None:
            yield from (f"{key}: the base has no {edit.weight}" for key in edit.changes.values())
        elif edit.changes:
            yield from self._change_misfits(edit, changed.shape)

    def _half_tied(self, tied: tuple[str, ...]) -> Iterator[str]:
        """Yield a line where one of two tied weights is changed, and the versions of PEFT disagree about the other."""
        changed = [name for name in tied if name in self._edits]
        if self._settings.ties and len(changed) == 1:
            yield (
                f"{self.key(changed[0])}: ensure_weight_tying is set, and nothing is stored for the weight that it is "
                "tied to, which PEFT 0.18 leaves as it is and later versions change alike; save it again with a later "
                "one, or without the option"
            )

    def _change_misfits(self, edit: Edit, base: tuple[int, ...]) -> Iterator[str]:
        """Compare what is stored about one weight with what its change needs: the parts, and the shape of each."""
        wanted = self._wanted(edit, base)
        for part, key in edit.changes.items():
            if part not in wanted:
                yield f"{key}: " + (
                    "use_dora is not set" if part == "magnitude_vector" else "mixed with another kind of change"
                )
            elif missing := sorted(wanted.keys() - edit.changes.keys()):
                yield f"{key}: stored without its {', '.join(f'lora_{p}' for p in missing)}"
            elif (stored := self._source.info(key).shape) and _flat(part, stored) != wanted[part]:
                yield (
                    f"{key}: shape {list(stored)}, but a base of {list(base)} at rank "
                    f"{self._settings.rank(edit.module)} needs {list(wanted[part])}"
                )

    def _wanted(self, edit: Edit, base: tuple[int, ...]) -> dict[Part, tuple[int, ...]]:
        """The parts that the change of one weight consists of, and their shapes for the base's shape."""
        if "added_bias" in edit.parts:
            return {"added_bias": base}
        rank = self._settings.rank(edit.module)
        out, inner = (base[-1], base[0]) if self._is_transposed(edit) else (base[0], prod(base[1:]))
        a, b = edit.matrices
        magnitude: dict[Part, tuple[int, ...]] = {"magnitude_vector": (out,)} if self._settings.use_dora else {}
        return {a: (rank, inner), b: (out, rank)} | magnitude


def _flat(part: Part, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A stored shape without the kernel axes that a convolution's adapter keeps."""
    return (prod(shape),) if part in ("magnitude_vector", "added_bias") else (*shape[:1], prod(shape[1:]))
