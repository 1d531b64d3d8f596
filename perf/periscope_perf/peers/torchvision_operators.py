"""torchvision beside the CPU build of torch, for peers' scripts."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def declare_torchvision_operators() -> None:
    """Make torchvision importable beside the CPU build of torch, which lacks the operators that it refers to."""
    import torch

    found = importlib.util.find_spec("torchvision")
    try:
        # As its import does. Where its library fits this torch it brings them; defined twice they end the process.
        torch.ops.load_library(Path(found.origin or "").with_name("_C.so") if found else "")
    except OSError:
        if not hasattr(torch.ops.torchvision, "nms"):
            library = torch.library.Library("torchvision", "FRAGMENT")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            globals()["_operators"] = library  # a library that is collected takes its operators with it
