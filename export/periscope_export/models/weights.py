"""Fills towers and heads from a checkpoint: every weight is found, used and of the right shape, or the export stops.

A module is built without memory and filled tensor by tensor, so loading costs one tensor, and room in a file for the
weights themselves.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from periscope_export.checkpoint.reading import Weights
from periscope_export.errors import ExportError
from periscope_export.models.layers import LayerNorm, Linear, RMSNorm
from periscope_export.models.mapped import mapped_tensors
from periscope_export.models.steps import Step
from periscope_export.models.task_adapters import Adapters


def check_weights(steps: Sequence[Step], weights: Weights, unused: str) -> None:
    """Compare names and shapes without reading a tensor.

    `unused` matches the canonical names that may stay unused, beside what the steps say themselves. Raises
    `ExportError` with the complete lists of missing, unused and wrongly shaped weights, by the names that the
    checkpoint has or would have.
    """
    expected = {name: shape for step in steps for name, shape, _ in _slots(step)}
    stored, spare = set(weights.keys()), [unused, *(step.unused for step in steps)]
    misshapen = [
        f"{weights.stored_name(name)} is {list(found)}, the model needs {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in stored and (found := tuple(weights.info(name).shape)) != shape and _flat(found) != shape
    ]
    missing, left_over = (
        [weights.stored_name(name) for name in sorted(names)]
        for names in (
            expected.keys() - stored,
            {name for name in stored - expected.keys() if not any(re.fullmatch(pattern, name) for pattern in spare)},
        )
    )
    problems = [
        f"{len(names)} {what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unused", left_over), ("wrongly shaped", misshapen))
        if names
    ]
    if problems:
        raise ExportError(
            f"weights: {'; '.join(problems)}. Check that the checkpoint is complete and that the recipe is its own."
        )


def load_step(
    step: Step,
    weights: Weights,
    digest: hashlib._Hash | None = None,
    folder: Path | None = None,
    before: Sequence[nn.Module] = (),
) -> nn.Module:
    """Return a step's module in float32, filled and ready to run; `digest` is updated with every tensor.

    The weights lie in a file on the disk of `folder`: in float32 they take twice what the checkpoint does, and may be
    more than the machine has memory. `before` are the modules of the steps that it comes after. Call `check_weights`
    first. Raises `ExportError` naming every weight that holds anything but numbers, or nothing but zeros where that
    makes all items alike.
    """
    with torch.device("meta"):
        module = step.build()
    slots, through, spoilt = _slots(step, module), _on_the_only_way(module), list[str]()
    shapes = [getattr(owner, attribute).shape for _, _, (owner, attribute) in slots]
    for (name, _, (owner, attribute)), tensor in zip(slots, mapped_tensors(shapes, torch.float32, folder), strict=True):
        stored = weights.read(name)
        if digest is not None:
            _update(digest, name, stored)
        # Transposed as stored: to transpose and convert at once takes twice as long.
        tensor.copy_(stored.flatten(1).T.contiguous() if _transposed(owner, attribute) else stored)
        setattr(owner, attribute, nn.Parameter(tensor, requires_grad=False))
        # One pass over what was just written, and no memory for it.
        smallest, largest = (float(bound) for bound in tensor.aminmax())
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            spoilt.append(f"{weights.stored_name(name)} holds values that are no numbers (NaN or infinity)")
        elif smallest == largest == 0 and owner in through and attribute != "bias":
            spoilt.append(f"{weights.stored_name(name)} is all zero")
    if spoilt:
        raise ExportError(
            f"weights: {'; '.join(spoilt)}. With these, items have no vectors or all the same one: the file is "
            "damaged, or these weights were never trained. Download the checkpoint again, or give one trained from it."
        )
    module.eval()
    if step.finish is not None:
        step.finish(module, *before)
    return module


def _slots(step: Step, module: nn.Module | None = None) -> list[tuple[str, tuple[int, ...], tuple[nn.Module, str]]]:
    """Return (canonical name, published shape, where it goes) for every weight of a step."""
    if step.prefix is None:
        return []
    if module is None:
        with torch.device("meta"):
            module = step.build()
    slots = []
    for path, owner in module.named_modules():
        for attribute, parameter in owner.named_parameters(recurse=False):
            shape = tuple(parameter.shape)
            shape = shape[::-1] if _transposed(owner, attribute) else shape
            name = step.prefix + ".".join(filter(None, (path, attribute)))
            slots.append((name, shape, (owner, attribute)))
    return slots


def _on_the_only_way(module: nn.Module) -> set[nn.Module]:
    """Return what everything passes through: norms, and what is no adapter and in no list of blocks, which have ways
    around them.

    Gemma's norm is not among them: it adds one to its weight.
    """
    beside = [inner for inner in module.modules() if isinstance(inner, (nn.ModuleList, Adapters))]
    inside = {inner for one in beside for inner in one.modules()}
    outside = {one for one in module.modules() if isinstance(one, (Linear, nn.Embedding))} - inside
    return {module} | outside | {one for one in module.modules() if isinstance(one, (RMSNorm, LayerNorm))}


def _transposed(owner: nn.Module, attribute: str) -> bool:
    return isinstance(owner, Linear) and attribute == "weight"


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution over whole patches is a matrix; everything else stays as it is."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 2 else tuple(shape)


def _update(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
    digest.update(tensor.contiguous().view(torch.uint8).numpy().data if tensor.numel() else b"")
