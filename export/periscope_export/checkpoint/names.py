"""Names of weights: without those that training wraps around modules, and as the checkpoint at hand would have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

# Names that torch.compile, DistributedDataParallel, FSDP, activation checkpointing and PEFT put around a module,
# whichever module that is and in whatever order they do.
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_model\.model)\."
)


def unwrapped(name: str) -> str:
    """Return a stored name without what was wrapped around its modules, at any depth.

    >>> unwrapped("_orig_mod.module.base_model.model.model._orig_mod.norm.weight")
    'model.norm.weight'
    """
    return _WRAPPERS.sub("", name)


def as_stored(name: str, stored: Mapping[str, str], canonical: Callable[[str], str]) -> str:
    """Return what a checkpoint would call a weight that it lacks: as it calls the one that is most like it.

    `stored` maps its canonical names to the stored ones. The canonical name itself where none of them tells.
    """
    wanted = name.split(".")
    best, found = 0, name
    for known, spelled in stored.items():
        alike, spelling = _respelled(wanted, known.split("."), spelled)
        if alike > best and canonical(spelling) == name:
            best, found = alike, spelling
    return found


def _respelled(wanted: Sequence[str], known: Sequence[str], spelled: str) -> tuple[int, str]:
    """Return how many parts two names have in common at both ends, and `spelled` with the others exchanged."""
    most = min(len(wanted), len(known)) - 1
    first = next((n for n in range(most) if wanted[n] != known[n]), most)
    last = next((n for n in range(most - first) if wanted[-1 - n] != known[-1 - n]), most - first)
    old, new = (".".join(parts[first : len(parts) - last]) for parts in (known, wanted))
    before, found, after = f".{spelled}.".rpartition(f".{old}.")
    return first + last, f"{before}.{new}.{after}".strip(".") if found else spelled
