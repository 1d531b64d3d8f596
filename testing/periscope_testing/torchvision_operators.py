"""Makes torchvision importable beside a torch build that it was not compiled for.

colpali-engine and the processors of transformers import torchvision, of which nothing here uses an operator. Its wheel
on PyPI is built for the CUDA build of torch; beside the CPU build its own operators are missing, and its import stops
at the first one that it refers to. Declaring their signatures is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SIGNATURES = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: list[torch.library.Library] = []


def declare_torchvision_operators() -> None:
    """Declare torchvision's operators unless its own library brings them. Safe to call twice."""
    if _library or (found := importlib.util.find_spec("torchvision")) is None or _brings_its_own(found.origin):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for signature in _SIGNATURES.values():
        library.define(signature)
    _library.append(library)  # a library that is collected takes its declarations with it


def _brings_its_own(origin: str | None) -> bool:
    """Load torchvision's library as its import does. Operators that are defined twice end the process."""
    try:
        torch.ops.load_library(Path(origin or "").with_name("_C.so"))
    except OSError:  # compiled for another torch
        return False
    return True
